"""Every command on files whose paths look like the console's markup: it runs, and prints them as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from atrous.cli import main
from atrous.data.datasets import voc
from tests.cli.conftest import Run
from tests.offline import skip_without
from tests.training.conftest import write_folder, write_sbd, write_voc

SMALL = ("model.options.width=0.125", "transforms=[{crop: {height: 33, width: 33}}]", "batch=2", "workers=0", "steps=1")


@pytest.fixture
def base(tmp_path: Path, photographs: Path, weights: Path) -> Path:
    """A folder with an image, weights, probabilities, a data set and a video, whose path contains `[/red]`."""
    base = tmp_path / "[" / "red] photo [x]"
    base.mkdir(parents=True)
    shutil.copy(photographs / "a.jpg", base / "photo [x].jpg")
    shutil.copy(weights, base / "w[bold].safetensors")
    np.save(base / "maps [x].npy", np.full((21, 40, 50), 1 / 21, np.float32))
    write_folder(base / "data [x]", voc.CLASSES, images=2)
    video = cv2.VideoWriter(str(base / "clip [x].mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    video.write(np.zeros((48, 64, 3), np.uint8))
    video.release()
    return base


COMMANDS = {
    "predict": (("predict", "{base}/photo [x].jpg", "-w", "{w}", "-o", "{base}/out"), "photo [x]_overlay.png"),
    "predict, a pattern": (("predict", "{base}/*.jpg", "-w", "{w}", "-o", "{base}/out"), "photo [x]_overlay.png"),
    "predict, a video": (("predict", "{base}/clip [x].mp4", "-w", "{w}", "-o", "{base}/out"), "clip [x]_overlay.mp4"),
    "crf": (("crf", "{base}/photo [x].jpg", "{base}/maps [x].npy", "-o", "{base}/out"), "photo [x].png"),
    "crf tune": (
        ("crf", "tune", "--data", "{data}", "-w", "{w}", "--images", "1", "--iterations", "1", "-o", "{base}/tune"),
        "search.png",
    ),
    "evaluate": (("evaluate", "-w", "{w}", "--data", "{data}?split=val", "-o", "{base}/evaluation"), "results.json"),
    "inspect": (("inspect", "{data}", "-o", "{base}/report"), "report.html"),
    "info": (("info", "{w}"), "w[bold].safetensors"),
    "import-weights": (("import-weights", "{w}", "-o", "{base}/half [x].safetensors"), "half [x].safetensors"),
    "explain": (
        ("explain", "deeplab_v1.vgg16", "--size", "65", "--valid-weights", "-o", "{base}/a [x].svg"),
        "a [x].svg",
    ),
    "data check": (("data", "check", "{data}"), "data [x]"),
    "data convert": (("data", "convert", "{data}", "-o", "{base}/converted [x]"), "converted [x]"),
    "train": (
        ("train", "--model", "deeplab_v3_plus.mobilenet_v2", "--data", "{data}", "--out", "{base}/run [x]"),
        "last.safetensors",
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_paths_are_printed_as_they_are(run: Run, base: Path, name: str) -> None:
    if name == "train":
        pytest.importorskip("lightning_fabric", reason="needs the extra 'train'")
    arguments, printed = COMMANDS[name]
    places = {"base": base, "w": base / "w[bold].safetensors", "data": base / "data [x]"}
    result = run(*(argument.format(**places) for argument in arguments), *(SMALL if name == "train" else ()))
    assert result.code == 0, result.err
    text = result.out.replace("\n", "")
    assert printed in text
    assert name.startswith("data check") or str(base) in text


def test_export_prints_the_path(run: Run, base: Path) -> None:
    skip_without("onnxscript")
    out = base / "street [x].onnx"
    result = run("export", "-w", base / "w[bold].safetensors", "-o", out, "--size", "33x33")
    assert result.code == 0, result.err
    assert str(out) in result.out


@pytest.mark.slow
def test_quantize_prints_the_path(run: Run, base: Path) -> None:
    skip_without("nncf")
    skip_without("openvino")
    out = base / "street [x].xml"
    arguments = ("--data", base / "data [x]", "--images", "1", "--size", "33x33")
    result = run("quantize", "-w", base / "w[bold].safetensors", *arguments, "-o", out)
    assert result.code == 0, result.err
    assert str(out) in result.out.replace("\n", "")


def test_push_writes_and_prints_the_path(run: Run, base: Path) -> None:
    files = base / "files [x]"
    image = base / "photo [x].jpg"
    result = run("push", base / "w[bold].safetensors", "me/street", "--out", files, "--image", image)
    assert result.code == 0, result.err
    assert str(files) in result.out.replace("\n", "")
    assert (files / "model.safetensors").is_file()


def test_benchmark_takes_the_path(run: Run, base: Path) -> None:
    arguments = ("--size", "33x33", "--rounds", "1", "--engine", "torch", "--json")
    result = run("benchmark", "-w", base / "w[bold].safetensors", *arguments)
    assert result.code == 0, result.err
    assert json.loads(result.out)["weights"] == str(base / "w[bold].safetensors")


def test_weights_in_a_folder_of_brackets_are_listed(run: Run, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATROUS_WEIGHTS", str(base))
    result = run("weights")
    assert result.code == 0, result.err
    assert "w[bold]" in result.out


def test_every_command_is_tried() -> None:
    commands: Any = get_command(main.app)
    tried = Path(__file__).read_text("utf-8")
    assert not {name for name in commands.commands if f'"{name}"' not in tried}


def test_data_init_and_voc_aug_print_the_path(run: Run, base: Path) -> None:
    (base / "data [x]" / "classes.yaml").unlink()
    result = run("data", "init", base / "data [x]")
    assert result.code == 0, result.err
    assert str(base / "data [x]" / "classes.yaml") in result.out
    pytest.importorskip("scipy")
    root, sbd = write_voc(base / "voc [x]"), write_sbd(base / "sbd [x]")
    result = run("data", "voc-aug", "--voc", root, "--sbd", sbd, "--partial", "-o", base / "aug [x]")
    assert result.code == 0, result.err
    assert str(root) in result.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "{missing}", "-o", "{base}/out"),
        ("predict", "{base}/photo [x].jpg", "-w", "{missing}", "-o", "{base}/out"),
        ("crf", "{missing}", "{base}/maps [x].npy"),
        ("crf", "tune", "--data", "{missing}", "-w", "{missing}", "-o", "{base}/tune"),
        ("evaluate", "-w", "{missing}", "--data", "{base}"),
        ("inspect", "{missing}"),
        ("info", "{missing}"),
        ("import-weights", "{missing}", "-o", "{base}/a.safetensors"),
        ("export", "-w", "{missing}", "-o", "{base}/a.onnx"),
        ("quantize", "-w", "{missing}", "--data", "{missing}", "-o", "{base}/a.onnx"),
        ("benchmark", "-w", "{missing}"),
        ("serve", "-w", "{missing}", "--port", "0"),
        ("explain", "{missing}"),
        ("push", "{missing}", "me/street", "--out", "{base}/files"),
        ("data", "check", "{missing}"),
        ("data", "convert", "{missing}", "-o", "{base}/out"),
        ("data", "init", "{missing}"),
        ("data", "voc-aug", "--voc", "{missing}", "--sbd", "{missing}"),
        ("train", "--model", "unet.padded", "--data", "{missing}"),
        ("train", "{missing}"),
        ("data", "list", "[/red]"),
        ("models", "[/red]"),
        ("weights", "[/red]"),
    ],
)
def test_errors_name_paths_as_they_are(run: Run, base: Path, arguments: tuple[str, ...]) -> None:
    needed = {"train": "lightning_fabric", "serve": "fastapi"}.get(arguments[0], "torch")
    pytest.importorskip(needed, reason=f"needs the extra '{arguments[0]}'")
    missing = base / "none [x]" / "[b]"
    result = run(*(argument.format(base=base, missing=missing) for argument in arguments))
    assert result.code == 2
    assert "[/red]" in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_images_of_a_folder_of_brackets(run: Run, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "["
    folder.mkdir(parents=True)
    for name in ("[", "[/red]".replace("/", "_"), ":smile:"):
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(folder / f"{name}.png")
    (folder / "red].png").write_text("no image")
    result = run("predict", folder, "-w", base / "w[bold].safetensors", "-o", tmp_path / "out")
    assert result.code == 2
    assert f"{folder}/red].png: not an image" in result.err
    for name in ("[", ":smile:", "[_red]"):
        assert f"{folder}/{name}.png: " in result.out
        assert f"{tmp_path}/out/{name}_overlay.png\n" in result.out


def test_an_extra_is_named_in_brackets(run: Run, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    arguments = ("evaluate", "-w", base / "w[bold].safetensors", "--data", f"{base / 'data [x]'}?split=val")
    result = run(*arguments, "-o", base / "evaluation")
    assert result.code == 0, result.err
    assert "pip install 'atrous[train]'" in result.err
