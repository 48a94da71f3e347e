"""Files that commands did not write themselves: they stay as they are unless `--overwrite` is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atrous.data.datasets import voc
from atrous.training.run_dir import FILES
from tests.cli.conftest import Run
from tests.training.conftest import write_folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of five images of the classes of VOC."""
    return write_folder(tmp_path / "data", voc.CLASSES)


COMMANDS = {
    "crf": (
        ("crf", "{image}", "{maps}", "--probabilities"),
        ("a.png", "a_overlay.png", "a_before_overlay.png", "a.npy"),
    ),
    "evaluate": (
        ("evaluate", "-w", "{weights}", "--data", "{data}?split=val"),
        ("results.json", "trimap.png", "confusion.png", "worst.png"),
    ),
    "inspect": (("inspect", "{data}"), ("samples.png", "report.html")),
    "predict": (("predict", "{image}", "-w", "{weights}"), ("a.png", "a_overlay.png")),
}
"""Commands that write to a folder, and the files they write."""


@pytest.mark.parametrize("name", COMMANDS)
def test_only_own_files_in_a_folder_are_replaced(
    run: Run, photographs: Path, weights: Path, data: Path, tmp_path: Path, name: str
) -> None:
    np.save(tmp_path / "maps.npy", np.full((21, 40, 50), 1 / 21, np.float32))
    places = {"image": photographs / "a.jpg", "maps": tmp_path / "maps.npy", "weights": weights, "data": data}
    arguments, files = COMMANDS[name]
    out = tmp_path / "out"
    command = [argument.format(**places) for argument in arguments] + ["-o", str(out)]
    out.mkdir()
    for file in files:
        (out / file).write_text("mine")
        result = run(*command)
        assert result.code == 2
        assert f"{out / file} exists and is not a file of `atrous {name}`" in result.err
        assert {path.name: path.read_text() for path in out.iterdir()} == {file: "mine"}
        (out / file).unlink()
    (out / files[0]).write_text("mine")
    assert run(*command, "--overwrite").code == 0
    assert {path.name for path in out.iterdir()} == set(files)
    assert run(*command).code == 0  # its own files


def test_the_crf_replaces_no_input(run: Run, photographs: Path, tmp_path: Path) -> None:
    np.save(photographs / "a.npy", np.full((2, 40, 50), 1 / 2, np.float32))
    before = {path: path.read_bytes() for path in photographs.rglob("*") if path.is_file()}
    for options in ((), ("--overwrite",), ("--overwrite", "--probabilities")):
        image = photographs / ("a.jpg" if "--probabilities" in options else "a.png")
        result = run("crf", image, photographs / "a.npy", "-o", photographs, *options)
        assert result.code == 2
        assert "would overwrite an input" in result.err
    assert {path: path.read_bytes() for path in photographs.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("import-weights", "{weights}", "-o", "{out}"),
        ("export", "-w", "{weights}", "-o", "{out}"),
        ("quantize", "-w", "{weights}", "--data", "{data}", "-o", "{out}"),
        ("explain", "deeplab_v1.vgg16", "--valid-weights", "-o", "{out}"),
    ],
)
def test_a_named_file_is_not_replaced(
    run: Run, weights: Path, data: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    out = tmp_path / "mine.safetensors"
    out.write_text("mine")
    result = run(*(argument.format(weights=weights, data=data, out=out) for argument in arguments))
    assert result.code == 2
    assert f"{out} exists" in result.err
    assert out.read_text() == "mine"


def test_a_named_file_is_replaced_if_asked(run: Run, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    out.write_text("mine")
    assert run("import-weights", weights, "-o", out, "--overwrite").code == 0
    before = out.read_bytes()
    result = run("import-weights", out, "-o", out, "--half", "--overwrite")
    assert result.code == 2
    assert "would overwrite an input" in result.err
    assert out.read_bytes() == before


@pytest.mark.parametrize("file", FILES)
def test_a_new_run_replaces_no_file(run: Run, data: Path, tmp_path: Path, file: str) -> None:
    pytest.importorskip("lightning_fabric", reason="needs the extra 'train'")
    out = tmp_path / "run"
    out.mkdir()
    (out / file).write_text("mine")
    result = run(
        *("train", "--model", "deeplab_v3_plus.mobilenet_v2", "--data", data, "--out", out, "--no-check"),
        *(
            "model.options.width=0.125",
            "transforms=[{crop: {height: 33, width: 33}}]",
            "batch=2",
            "workers=0",
            "steps=1",
        ),
    )
    assert result.code == 2
    assert f"{out / file} exists" in result.err
    assert (out / file).read_text() == "mine"


def test_probabilities_of_other_weights_are_not_searched(run: Run, weights: Path, data: Path, tmp_path: Path) -> None:
    arguments = ("crf", "tune", "--data", data, "--images", 1, "--iterations", 1, "-o", tmp_path / "out", "-w")
    assert run(*arguments, weights).code == 0
    other = tmp_path / "other.safetensors"
    assert run("import-weights", weights, "-o", other, "--half").code == 0
    result = run(*arguments, other)
    assert result.code == 2
    assert "contains the probabilities of other weights" in result.err


def test_a_search_does_not_cut_other_files(run: Run, weights: Path, data: Path, tmp_path: Path) -> None:
    log = tmp_path / "out" / "search.jsonl"
    log.parent.mkdir()
    log.write_text("mine")
    result = run("crf", "tune", "--data", data, "--images", 1, "--iterations", 1, "-o", log.parent, "-w", weights)
    assert result.code == 2
    assert "not the log of a CRF search" in result.err
    assert log.read_text() == "mine"
