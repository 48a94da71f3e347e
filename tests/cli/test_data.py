"""`atrous inspect` and `atrous data`, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Run


@pytest.fixture
def own(tmp_path: Path) -> Path:
    root = tmp_path / "own"
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(4):
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(root / f"images/{number}.png")
        Image.fromarray(rng.integers(0, 2, (20, 30), np.uint8)).save(root / f"masks/{number}.png")
    (root / "classes.yaml").write_text("classes: [ground, '[red]crack[/]']\nsplits: {train: 0.5, val: 0.5}\n")
    return root


class TestInspect:
    def test_weights_of_camvid(self, run: Run, shared_data: Path) -> None:
        result = run("inspect", f"camvid:{shared_data}/camvid?split=train")
        assert result.code == 0, result.err
        weights = [0.2793, 0.2017, 4.7865, 0.1490, 1.0, 0.4217, 3.8467, 1.9736, 0.7889, 6.3747, 8.8587]
        assert all(f"{weight:.4f}" in result.out for weight in weights)
        assert "no errors" in result.out

    def test_report(self, run: Run, own: Path, tmp_path: Path) -> None:
        result = run("inspect", own, "-o", tmp_path / "report")
        assert result.code == 0, result.err
        assert "[red]crack[/]" in result.out
        assert sorted(p.name for p in (tmp_path / "report").iterdir()) == ["report.html", "samples.png"]
        assert Image.open(tmp_path / "report/samples.png").width > 400

    def test_errors_are_exit_code_1(self, run: Run, own: Path) -> None:
        Image.fromarray(np.full((20, 30), 9, np.uint8)).save(own / "masks/0.png")
        result = run("inspect", own, "--json")
        assert result.code == 1
        content = json.loads(result.out)
        assert not content["ok"]
        assert "value 9" in content["problems"][0]["message"]
        listed = run("inspect", own)
        assert listed.code == 1
        assert "1 error:" in listed.out

    def test_strict(self, run: Run, own: Path) -> None:
        (own / "classes.yaml").write_text("classes: [ground, crack, roof]")
        assert run("inspect", own).code == 0
        result = run("inspect", own, "--strict")
        assert result.code == 1
        assert "No pixel is labeled roof" in result.out

    def test_a_missing_folder_is_exit_code_2(self, run: Run, tmp_path: Path) -> None:
        result = run("inspect", f"camvid:{tmp_path}/nowhere")
        assert result.code == 2
        assert "no such folder" in result.err


class TestData:
    def test_list(self, run: Run) -> None:
        result = run("data", "list", "coco*")
        assert "coco_voc" in result.out
        assert "subset" in result.out
        assert "camvid" not in result.out
        assert run("data", "list", "imagenet").code == 2

    def test_check(self, run: Run, own: Path) -> None:
        assert "train: 2 images, 2 classes" in run("data", "check", own).out
        (own / "masks/0.png").unlink()
        result = run("data", "check", own)
        assert result.code == 1
        assert "0.png: the image has no mask" in result.out

    def test_convert(self, run: Run, own: Path, tmp_path: Path) -> None:
        result = run("data", "convert", own, "-o", tmp_path / "out")
        assert result.code == 0, result.err
        assert "train 2, val 2" in result.out
        assert run("inspect", tmp_path / "out").code == 0

    def test_init(self, run: Run, own: Path) -> None:
        (own / "classes.yaml").unlink()
        assert run("inspect", own).code == 2
        assert run("data", "init", own).code == 0
        assert run("inspect", own).code == 0

    def test_voc_aug(self, run: Run, tmp_path: Path) -> None:
        savemat = pytest.importorskip("scipy.io").savemat
        voc, sbd = tmp_path / "VOC2012", tmp_path / "sbd"
        for folder in (voc / "JPEGImages", voc / "SegmentationClass", voc / "ImageSets/Segmentation", sbd / "cls"):
            folder.mkdir(parents=True)
        labels = np.ones((4, 4), np.uint8)
        Image.fromarray(labels).save(voc / "SegmentationClass/a.png")
        savemat(sbd / "cls/c.mat", {"GTcls": {"Segmentation": labels}})
        for path, names in (
            (voc / "ImageSets/Segmentation/train.txt", "a"),
            (voc / "ImageSets/Segmentation/val.txt", "b"),
            (sbd / "train.txt", "c"),
            (sbd / "val.txt", "b"),
        ):
            path.write_text(names)
        whole = run("data", "voc-aug", "--voc", voc, "--sbd", sbd)
        assert whole.code == 2
        assert "expected 10,582" in whole.err
        part = run("data", "voc-aug", "--voc", voc, "--sbd", sbd, "--partial")
        assert part.code == 0, part.err
        assert "2 images" in part.out
        assert (voc / "ImageSets/Segmentation/trainaug.txt").read_text() == "a\nc\n"
