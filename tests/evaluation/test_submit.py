"""Archives for the evaluation servers: their layout, their files, and what is refused."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous import AtrousError
from atrous.data import open_dataset
from atrous.data.datasets import voc
from atrous.evaluation import write_cityscapes, write_voc
from atrous.evaluation.submit import SERVERS, check_archive, get_server
from atrous.imaging.labels import encode_labels
from tests.data_fixtures import Write, photograph

INSIDE = "results/VOC2012/Segmentation/comp6_test_cls"


@pytest.mark.parametrize(("competition", "suffix"), [("comp5", ".tgz"), ("comp6", ".tar.gz")])
def test_voc_layout_and_archive(tmp_path: Path, competition: str, suffix: str) -> None:
    labels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    archive = tmp_path / f"results{suffix}"
    write_voc([("2008_000006", labels), ("2008_000008", labels[::-1])], archive, competition=competition)
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
        names = tar.getnames()
    inside = INSIDE.replace("comp6", competition)
    assert names == [f"{inside}/2008_000006.png", f"{inside}/2008_000008.png"]
    with Image.open(tmp_path / inside / "2008_000006.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), labels)
        assert tuple(np.asarray(image.convert("RGB"))[0, 1]) == (128, 0, 0)


def test_what_is_not_a_submission(tmp_path: Path) -> None:
    labels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    with pytest.raises(AtrousError, match="comp5 or comp6"):
        write_voc([], tmp_path / "a.tgz", competition="comp3")
    with pytest.raises(AtrousError, match="classes 0 to 20"):
        write_voc([("a", labels + 10)], tmp_path / "a.tgz")
    with pytest.raises(AtrousError, match=r"ends in \.tgz or \.tar\.gz"):
        write_voc([("a", labels)], tmp_path / "a.zip")
    with pytest.raises(AtrousError, match=r"ends in \.zip"):
        write_cityscapes([("berlin_000000_000019", labels)], tmp_path / "folder")
    with pytest.raises(AtrousError, match="CITY_SEQUENCE_FRAME"):
        write_cityscapes([("image7", labels // 2)], tmp_path / "a.zip")
    assert not list(tmp_path.iterdir())


def test_cityscapes_names_and_label_ids(tmp_path: Path) -> None:
    labels = np.arange(19, dtype=np.uint8)[None]
    archive = tmp_path / "results.zip"
    write_cityscapes([("berlin/berlin_000000_000019_leftImg8bit", labels)], archive)
    with zipfile.ZipFile(archive) as package:
        (name,) = package.namelist()
        with Image.open(io.BytesIO(package.read(name))) as image:
            assert image.mode == "L"
            assert np.asarray(image)[0, :3].tolist() == [7, 8, 11]
            assert np.asarray(image)[0, -1] == 33
    assert name == "berlin_000000_000019_pred_labelIds.png"


def test_the_official_evaluator_finds_the_files(tmp_path: Path) -> None:
    official = pytest.importorskip(
        "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling",
        reason="needs cityscapesscripts, of the dev extra",
    )
    write_cityscapes([("frankfurt_000000_000576", np.zeros((2, 2), np.uint8))], tmp_path / "results.zip")
    with zipfile.ZipFile(tmp_path / "results.zip") as package:
        package.extractall(tmp_path)
    official.args.predictionPath = str(tmp_path)
    official.args.predictionWalk = None
    truth = "gtFine/val/frankfurt/frankfurt_000000_000576_gtFine_labelIds.png"
    assert official.getPrediction(official.args, truth).endswith("frankfurt_000000_000576_pred_labelIds.png")


def pack(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def test_archives_are_checked(tmp_path: Path) -> None:
    labels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    good, name, server = encode_labels(labels, voc.COLORS), f"{INSIDE}/2008_000006.png", SERVERS["voc"]
    expected = {name: (4, 5)}
    path = tmp_path / "results.tgz"
    check_archive(pack(path, {name: good}), expected, server)
    gray = io.BytesIO()
    Image.fromarray(labels).save(gray, format="PNG")
    wrong = {
        "is missing, of 1 files": {},
        "2008_000007.png is not expected": {name: good, f"{INSIDE}/2008_000007.png": good},
        "not an image": {name: b"text"},
        "mode L; the server expects 5 x 4 pixels, mode P": {name: gray.getvalue()},
        "4 x 5 pixels, mode P": {name: encode_labels(labels.T, voc.COLORS)},
        r"values \[255\]": {name: encode_labels(np.where(labels == 3, 255, labels), voc.COLORS)},
    }
    for message, files in wrong.items():
        with pytest.raises(AtrousError, match=message):
            check_archive(pack(path, files), expected, server)
    path.write_bytes(b"text")
    with pytest.raises(AtrousError, match="not a readable archive"):
        check_archive(path, expected, server)


def test_the_data_set_of_a_server(tmp_path: Path, write: Write, own: Path) -> None:
    write(tmp_path / "ImageSets/Segmentation/test.txt", "2008_000006\n")
    write(tmp_path / "JPEGImages/2008_000006.jpg", photograph(0))
    dataset = open_dataset(f"voc2012:{tmp_path}?split=test")
    assert get_server("voc", dataset, Path("results.tgz")).images == 1456
    with pytest.raises(AtrousError, match="Did you mean 'voc'"):
        get_server("vocc", dataset, Path("results.tgz"))
    with pytest.raises(AtrousError, match="evaluates cityscapes, not voc2012"):
        get_server("cityscapes", dataset, Path("results.zip"))
    with pytest.raises(AtrousError, match=r"ends in \.tgz or \.tar\.gz"):
        get_server("voc", dataset, Path("evaluation"))
