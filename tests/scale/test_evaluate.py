"""`atrous evaluate --ray`, with its workers in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from atrous.scale import evaluate as module
from tests.command_line import Run
from tests.offline import skip_without

skip_without("ray")


def results(folder: Path) -> dict:
    """The results of an evaluation without times and the command."""
    content = json.loads((folder / "results.json").read_text())
    return {key: value for key, value in content.items() if "seconds" not in key and key not in ("command", "engine")}


def test_counts_are_those_of_one_process(
    run: Run, own: Path, three_classes: Path, tmp_path: Path, in_process: None
) -> None:
    command = ("evaluate", "-w", three_classes, "--data", f"{own}?split=train", "-o")
    assert run(*command, tmp_path / "one").code == 0
    result = run(*command, tmp_path / "many", "--ray")
    assert result.code == 0, result.err
    assert results(tmp_path / "many") == results(tmp_path / "one")
    assert (tmp_path / "many" / "worst.png").read_bytes() == (tmp_path / "one" / "worst.png").read_bytes()


def test_an_image_that_cannot_be_read_is_counted_later(
    run: Run, own: Path, three_classes: Path, tmp_path: Path, in_process: None
) -> None:
    command = ("evaluate", "-w", three_classes, "--data", f"{own}?split=train", "-o")
    assert run(*command, tmp_path / "one").code == 0
    image = own / "images" / "2.jpg"
    content = image.read_bytes()
    image.write_bytes(content[:200])
    result = run(*command, tmp_path / "many", "--ray")
    assert result.code == 2
    assert "1 of 4 images could not be evaluated" in result.err
    assert "2.jpg" in result.err
    image.write_bytes(content)
    counted = []
    original = module.segment

    def segment(*arguments):
        counted.append(arguments[1])
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "segment", segment)
        assert run(*command, tmp_path / "many", "--ray").code == 0
    assert len(counted) == 1
    assert results(tmp_path / "many") == results(tmp_path / "one")


def test_an_archive_is_written_without_a_cluster(run: Run, own: Path, three_classes: Path, tmp_path: Path) -> None:
    result = run("evaluate", "-w", three_classes, "--data", own, "--submit", "voc", "-o", tmp_path / "a.tgz", "--ray")
    assert "remove --ray" in result.err
