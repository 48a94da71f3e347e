"""The command line as a whole: help, typos, and errors that several commands share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import atrous
from atrous import __version__
from atrous.cli.main import _add_default_preset
from atrous.cli.options import TTA_PRESETS
from atrous.inference import tta
from tests.cli.conftest import Run


def test_a_typo_gets_a_hint(run: Run) -> None:
    result = run("predit", "a.jpg")
    assert result.code == 2
    assert "predict" in result.err


@pytest.mark.parametrize(
    "command", ["predict", "evaluate", "train", "models", "explain", "weights", "info", "import-weights", "inspect"]
)
def test_help_has_examples(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert result.code == 0
    assert f"atrous {command}" in result.out


def test_the_package_runs_as_a_module() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(atrous.__file__).parents[1])}
    command = [sys.executable, "-m", "atrous", "--version"]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == f"atrous {__version__}"


def test_version(run: Run) -> None:
    assert run("--version").out.strip() == f"atrous {__version__}"


def test_help_describes_every_command(run: Run) -> None:
    result = run("--help")
    for command in ("predict", "evaluate", "train", "models", "explain", "weights", "info", "import-weights", "crf"):
        assert command in result.out


def _cut(path: Path, weights: Path) -> Path:
    path.write_bytes(weights.read_bytes()[:-50])
    return path


def _changed(path: Path, weights: Path) -> Path:
    data = bytearray(weights.read_bytes())
    data[-1000] ^= 255
    path.write_bytes(data)
    return path


def _half_graph(path: Path, weights: Path) -> Path:
    path = path.with_suffix(".tflite")
    path.write_bytes(b"\x1c\0\0\0TFL3" + b"\0" * 50)
    return path


def _other_graph(path: Path, weights: Path) -> Path:
    path = path.with_name("deeplabv3_257_mv_gpu.tflite")
    path.write_bytes(b"\x1c\0\0\0TFL3" + b"\0" * 50)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_cut, "truncated or altered"),
        (_changed, "truncated or altered"),
        (_half_graph, "truncated or altered"),
        (_other_graph, "differs from the released file"),
        (lambda path, weights: "deeplab_v3.mobilenet_v2.vok", "Did you mean 'deeplab_v3.mobilenet_v2.voc'"),
        (lambda path, weights: path.with_name("missing.safetensors"), "no such file"),
    ],
)
def test_bad_weights_are_one_line_and_code_2(
    run: Run, photographs: Path, weights: Path, tmp_path: Path, make, message: str
) -> None:
    bad = make(tmp_path / "bad.safetensors", weights)
    for command in (("predict", photographs, "-w", bad, "-o", tmp_path / "out"), ("info", bad)):
        if command[0] == "info" and make is _changed:
            continue  # the card alone is whole
        result = run(*command)
        assert result.code == 2
        assert message in result.err
        assert len(result.err.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "expanded"),
    [
        (["predict", "a.png", "--crf"], ["predict", "a.png", "--crf", "v2"]),
        (["predict", "--crf", "a.png"], ["predict", "--crf", "v2", "a.png"]),
        (["predict", "--crf", "photos"], ["predict", "--crf", "v2", "photos"]),
        (["predict", "--crf", "photos/*.png"], ["predict", "--crf", "v2", "photos/*.png"]),
        (["predict", "--crf", "-w", "w"], ["predict", "--crf", "v2", "-w", "w"]),
        (["predict", "--crf", "v1", "a.png"], ["predict", "--crf", "v1", "a.png"]),
        (["predict", "--crf", "V2", "a.png"], ["predict", "--crf", "V2", "a.png"]),
        (["predict", "a.png", "--crf", "v2-resnet"], ["predict", "a.png", "--crf", "v2-resnet"]),
    ],
)
def test_the_preset_of_the_crf_is_optional(
    arguments: list[str], expanded: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert _add_default_preset(arguments) == expanded


def test_a_typo_in_the_preset_of_the_crf_gets_a_hint(run: Run, photographs: Path, tmp_path: Path) -> None:
    result = run("predict", "--crf", "V2", photographs / "a.png", "-o", tmp_path / "out")
    assert result.code == 2
    assert "No CRF preset 'V2'" in result.err
    assert "Did you mean 'v2'" in result.err


def test_help_names_every_test_time_augmentation(run: Run) -> None:
    assert tuple(tta.PRESETS) == TTA_PRESETS
    assert all(name in run("predict", "--help").out for name in TTA_PRESETS)
