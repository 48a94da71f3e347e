"""`atrous evaluate`, as it is typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atrous import create_model
from atrous.card import Card, Preprocessing
from atrous.data.datasets import cityscapes, voc
from atrous.errors import AtrousError
from atrous.evaluation import EvaluationResult
from atrous.weights import read_card, save, write_card
from tests.cli.conftest import Run, change
from tests.inference.networks import waves
from tests.training.conftest import write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of one's own: two images, two classes."""
    for name in ("a", "b"):
        (tmp_path / "mine" / "images").mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / "masks").mkdir(exist_ok=True)
        Image.fromarray(waves(40, 50)).save(tmp_path / "mine" / "images" / f"{name}.png")
        mask = (np.arange(40 * 50).reshape(40, 50) % 2).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / "mine" / "masks" / f"{name}.png")
    (tmp_path / "mine" / "classes.yaml").write_text("classes: [even, odd]\n")
    return tmp_path / "mine"


def test_the_command_writes_figures_pictures_and_the_card(run: Run, folder: Path, tmp_path: Path) -> None:
    model = create_model("deeplab_v3.mobilenet_v2", width=0.125, num_classes=2)
    weights = save(
        model,
        tmp_path / "w.safetensors",
        card=Card(
            model="deeplab_v3.mobilenet_v2",
            arguments={"width": 0.125},
            classes=("even", "odd"),
            colors=((0, 0, 0), (255, 255, 255)),
            preprocessing=Preprocessing(),
        ),
    )
    result = run("evaluate", "-w", weights, "--data", folder, "-o", tmp_path / "out", "--write-card")
    assert result.code == 0, result.err
    assert "mIoU" in result.out
    stored = json.loads((tmp_path / "out" / "results.json").read_text())
    assert stored["data"] == str(folder)
    assert stored["split"] == "all"
    assert "2 images of mine all in " in result.out
    assert "note" not in result.err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"results.json", "worst.png"} <= names
    measured = {figure.name: figure for figure in read_card(weights).measured}
    assert measured["mIoU"].command.startswith("atrous evaluate -w")
    assert str(round(measured["mIoU"].value, 2)) in result.out or f"{measured['mIoU'].value:.2f}" in result.out
    again = run("evaluate", "-w", weights, "--data", folder, "-o", tmp_path / "out", "--json", "--crf", "v2")
    assert json.loads(again.out)["crf"] == "v2"


def test_an_evaluation_begins_anew_where_half_of_the_weights_changed(
    run: Run, folder: Path, halves: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, decoder = halves
    arguments = ("evaluate", "-w", encoder, "--data", folder, "--engine", "torch", "-o", tmp_path / "out")
    original = EvaluationResult.add

    def interrupt(self, index, *others):
        if index == 1:
            raise KeyboardInterrupt
        original(self, index, *others)

    monkeypatch.setattr(EvaluationResult, "add", interrupt)
    assert run(*arguments).code == 130
    assert "resuming" in run(*arguments).err
    change(decoder)
    result = run(*arguments)
    assert result.code == 130
    assert "resuming" not in result.err


def test_predict_and_evaluate_give_the_same_labels_with_the_crf(run: Run, folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("deeplab_v3.mobilenet_v2", width=0.125, num_classes=2).eval()
    with torch.no_grad():
        model.classifier.weight *= 200  # so that both classes occur
    model.card = Card(
        model="deeplab_v3.mobilenet_v2",
        arguments={"width": 0.125},
        classes=("even", "odd"),
        colors=((0, 0, 0), (255, 255, 255)),
        preprocessing=Preprocessing(),
    )
    weights = save(model, tmp_path / "w.safetensors")
    out = tmp_path / "out"
    assert run("predict", folder / "images", "-w", weights, "-o", out, "--crf", "v2").code == 0
    assert run("evaluate", "-w", weights, "--data", folder, "-o", out, "--crf", "v2").code == 0
    confusion = np.zeros((2, 2), int)
    for name in ("a", "b"):
        truth = np.asarray(Image.open(folder / "masks" / f"{name}.png"))
        np.add.at(confusion, (truth, np.asarray(Image.open(out / f"{name}.png"))), 1)
    assert json.loads((out / "results.json").read_text())["confusion"] == confusion.tolist()


@pytest.mark.parametrize(
    ("server", "classes", "archive"), [("voc", 21, "results.tgz"), ("cityscapes", 19, "results.zip")]
)
def test_submission_to_a_test_server(run: Run, tmp_path: Path, server: str, classes: int, archive: str) -> None:
    """Of images without labels, of different sizes; the labels are those that predict writes."""
    if server == "voc":
        names, images = ["2008_000006", "2008_000008"], tmp_path / "data/JPEGImages"
        (tmp_path / "data/ImageSets/Segmentation").mkdir(parents=True)
        (tmp_path / "data/ImageSets/Segmentation/test.txt").write_text("\n".join(names))
        files = [images / f"{name}.jpg" for name in names]
    else:
        names, images = ["berlin_000000_000019", "berlin_000001_000019"], tmp_path / "data/leftImg8bit/test/berlin"
        files = [images / f"{name}_leftImg8bit.png" for name in names]
    images.mkdir(parents=True)
    for number, file in enumerate(files):
        Image.fromarray(waves(40, 50 + number)).save(file)
    torch.manual_seed(0)
    model = create_model("deeplab_v3.mobilenet_v2", width=0.125, num_classes=classes).eval()
    with torch.no_grad():
        model.classifier.weight *= 200  # so that several classes occur
    model.card = Card(
        model="deeplab_v3.mobilenet_v2",
        arguments={"width": 0.125},
        classes=tuple(f"class {number}" for number in range(classes)),
        colors=((0, 0, 0),) * classes,
        preprocessing=Preprocessing(),
    )
    weights = save(model, tmp_path / "w.safetensors")
    name = {"voc": "voc2012"}.get(server, server)
    data, out = f"{name}:{tmp_path / 'data'}?split=test", tmp_path / archive
    result = run("evaluate", "-w", weights, "--data", data, "--submit", server, "-o", out)
    assert result.code == 0, result.err
    assert "2 images ->" in result.out
    before = out.read_bytes()
    again = run("evaluate", "-w", weights, "--data", data, "--submit", server, "-o", out)
    assert again.code == 2
    assert f"{out} exists" in again.err
    assert out.read_bytes() == before
    assert "note: the server expects the" in result.out
    assert run("predict", images, "-w", weights, "-o", tmp_path / "predicted").code == 0
    shutil.unpack_archive(out, tmp_path / "unpacked", filter="data" if archive.endswith("tgz") else None)
    for name, file in zip(names, files, strict=True):
        written = next((tmp_path / "unpacked").rglob(f"{name}*.png"))
        labels = np.asarray(Image.open(tmp_path / "predicted" / f"{file.stem}.png"))
        expected = labels if server == "voc" else np.array(cityscapes.LABEL_IDS, np.uint8)[labels]
        np.testing.assert_array_equal(np.asarray(Image.open(written)), expected)
        assert len(np.unique(expected)) > 1
    assert len(list((tmp_path / "unpacked").rglob("*.png"))) == 2
    refused = run("evaluate", "-w", weights, "--data", data, "--submit", server)
    assert refused.code != 0
    assert "the server expects an archive" in refused.err


@pytest.mark.parametrize("place", ["cache", "package"])
def test_packaged_and_cached_weights_are_not_changed(
    run: Run, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    kept = tmp_path / "kept" / "tiny.safetensors"
    kept.parent.mkdir()
    shutil.copy(weights, kept)
    if place == "cache":
        monkeypatch.setenv("ATROUS_CACHE", str(kept.parent))
    else:
        monkeypatch.setattr("atrous.weights.find.PACKAGED", kept.parent)
    data = write_folder(tmp_path / "data", voc.CLASSES, images=1)
    before = kept.read_bytes()
    monkeypatch.chdir(tmp_path)
    arguments = ("evaluate", "-w", "tiny", "--data", f"{data}?split=val", "--no-boundaries", "--write-card")
    result = run(*arguments)
    assert result.code == 2
    assert "read-only: name a folder with -o" in result.err
    assert run(*arguments, "-o", "out").code == 0
    assert kept.read_bytes() == before
    assert read_card(tmp_path / "out" / "tiny.safetensors").measured
    with pytest.raises(AtrousError, match="read-only"):
        write_card(kept, read_card(kept))
    assert kept.read_bytes() == before


def test_the_split_is_said_where_none_is_named(run: Run, weights: Path, tmp_path: Path) -> None:
    data = write_folder(tmp_path / "mine", voc.CLASSES, images=2)
    result = run("evaluate", "-w", weights, "--data", data, "-o", tmp_path / "out")
    assert result.code == 0, result.err
    assert (
        f"no split is named, so this is train of mine, 2 images; for another: --data '{data}?split=val'" in result.err
    )
    assert "2 images of mine train in " in result.out
    result = run("evaluate", "-w", weights, "--data", f"{data}?split=val", "-o", tmp_path / "out")
    assert result.code == 0, result.err
    assert "no split is named" not in result.err


def test_pictures_are_not_written_into_the_data(run: Run, weights: Path, tmp_path: Path) -> None:
    data = write_folder(tmp_path / "mine", voc.CLASSES, images=2)
    for command in (("inspect", data), ("evaluate", "-w", weights, "--data", data)):
        result = run(*command, "-o", data / "images" / "train" / "report")
        assert result.code == 2
        assert "is in a folder of the data set" in result.err
        assert not (data / "images" / "train" / "report").exists()
