"""`atrous quantize` on a folder of images and masks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous import Segmenter, create_model
from atrous.data import open_dataset
from atrous.data.overlap import image_digests, pack_digests
from atrous.weights import read_card, save, write_card
from tests.command_line import Run
from tests.inference.networks import letter_card
from tests.offline import skip_without

skip_without("onnxscript")
skip_without("nncf")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of 3 images to train and 2 to validate, and weights of a small network."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "data"
    for split, count in (("train", 3), ("val", 2)):
        for kind, shape, values in (("images", (40, 56, 3), 256), ("masks", (40, 56), 5)):
            (folder / kind / split).mkdir(parents=True)
            for n in range(count):
                pixels = generator.integers(0, values, shape, np.uint8)
                Image.fromarray(pixels).save(folder / kind / split / f"{n}.png")
    (folder / "classes.yaml").write_text("classes: [a, b, c, d, e]\n")
    card = letter_card(align_corners=False).model_copy(update={"model": "segnet.basic", "arguments": {"width": 0.1}})
    save(create_model("segnet.basic", num_classes=5, width=0.1), tmp_path / "small.safetensors", card=card)
    return folder


def test_the_command_prints_and_stores_what_it_costs(run: Run, folder: Path) -> None:
    out = folder.parent / "out" / "small8.xml"
    weights = folder.parent / "small.safetensors"
    result = run("quantize", "-w", weights, "--data", f"folder:{folder}", "-o", out, "--max-drop", 50, "--images", 3)
    assert result.code == 0, result.err
    assert [line.split()[0] for line in result.out.splitlines() if line.split()[0] in ("mIoU", "size", "56")] == [
        "mIoU", "size", "56",
    ]  # fmt: skip
    assert sorted(os.listdir(out.parent)) == ["small8.bin", "small8.xml"]
    figures = {each.name: each for each in Segmenter.load(out).card.measured}
    assert figures["mIoU"].data == f"folder:{folder}, split val (2 images)"
    assert figures["mIoU"].command.startswith("atrous quantize -w")


def test_validation_images_that_were_trained_on_are_refused_at_once(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, out = folder.parent / "small.safetensors", folder.parent / "small8.onnx"
    trained = pack_digests(image_digests(open_dataset(f"{folder}?split=val")))
    write_card(weights, read_card(weights).model_copy(update={"trained_images": trained}))
    arguments = ("quantize", "-w", weights, "-d", folder, "-o", out, "--max-drop", 100, "--images", 3)
    with monkeypatch.context() as patch:
        patch.setattr("nncf.quantize_with_accuracy_control", None)
        assert "2 of its 2 images were trained on" in run(*arguments).err
    assert run(*arguments, "--allow-overlap").code == 0
    assert out.is_file()


def test_mistakes_are_named(run: Run, folder: Path) -> None:
    weights = folder.parent / "small.safetensors"
    assert "name it *.xml or *.onnx" in run("quantize", "-w", weights, "-d", folder, "-o", folder / "a.pt2").err
