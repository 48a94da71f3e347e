from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from atrous import AtrousError, Segmenter
from atrous.data import open_dataset
from atrous.evaluation import ConfusionMatrix, EvaluationResult, evaluate
from atrous.evaluation.report import (
    add_to_card,
    draw_worst_images,
    plot_confusion,
    plot_trimap,
    result_to_dict,
)
from atrous.files import write_json
from atrous.imaging.draw import Comparison
from atrous.weights import load, read_card, save
from tests.inference.networks import ChannelNetwork, quadrants, rgb_card


@dataclass
class QuadrantImages:
    """Images that the network segments correctly, except for a stripe with another true class."""

    count: int = 6
    classes = ("red", "green", "blue")
    ignore_index = 255

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        image = quadrants(30 + index, 40)
        labels = image.argmax(2).astype(np.uint8)
        labels[:, : 2 * index] = 1
        labels[0] = 255

        class Sample:
            pass

        sample = Sample()
        sample.image, sample.labels, sample.name = image, labels, f"image {index}"
        return sample


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(ChannelNetwork(), rgb_card(), device="cpu")


def counted(segmenter: Segmenter, data: QuadrantImages) -> ConfusionMatrix:
    matrix = ConfusionMatrix(3)
    for index in range(len(data)):
        matrix.update(data[index].labels, segmenter(data[index].image).labels)
    return matrix


def test_all_images_count_once(segmenter: Segmenter) -> None:
    data, calls = QuadrantImages(), []
    result = evaluate(segmenter, data, on_progress=lambda done, total: calls.append((done, total)))
    assert result.confusion == counted(segmenter, data)
    assert calls == [(n, 6) for n in range(1, 7)]
    assert result.worst(2) == [5, 4]
    assert 0 < result.network_seconds < result.seconds
    assert result.metrics()["mIoU"] == result.confusion.miou
    assert evaluate(segmenter, data, boundaries=False).metrics().keys() == {
        "mIoU", "pixel accuracy", "mean accuracy", "frequency-weighted IoU",
    }  # fmt: skip


def test_an_interrupted_evaluation_resumes(segmenter: Segmenter, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.npz"

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(segmenter, QuadrantImages(), checkpoint=checkpoint, settings="a", on_progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.npz"]
    calls: list[int] = []
    result = evaluate(
        segmenter, QuadrantImages(), checkpoint=checkpoint, settings="a", on_progress=lambda done, _: calls.append(done)
    )
    whole = evaluate(segmenter, QuadrantImages())
    assert 3 <= len(calls) < 6
    assert result.confusion == whole.confusion
    np.testing.assert_array_equal(result.trimap.counts, whole.trimap.counts)
    np.testing.assert_array_equal(result.boundary.counts, whole.boundary.counts)
    assert result.image_scores == whole.image_scores
    other = EvaluationResult.empty(3, settings="b")
    assert not other.restore(checkpoint)
    assert other.confusion.counts.sum() == 0
    checkpoint.write_bytes(b"PK\x03\x04 no more")
    with pytest.raises(AtrousError, match="is damaged"):
        evaluate(segmenter, QuadrantImages(), checkpoint=checkpoint, settings="a")


def test_an_invalid_mask_is_named_and_the_counts_are_saved(segmenter: Segmenter, tmp_path: Path) -> None:
    class Wrong(QuadrantImages):
        def __getitem__(self, index: int):
            sample = super().__getitem__(index)
            if index == 4:
                sample.labels[5, 5] = 9
            return sample

    with pytest.raises(AtrousError, match=r"image 4: the truth holds 9; classes 0 to 2, or 255"):
        evaluate(segmenter, Wrong(), checkpoint=tmp_path / "checkpoint.npz")
    done = EvaluationResult.empty(3)
    assert done.restore(tmp_path / "checkpoint.npz")
    assert {0, 1, 2, 3} <= set(done.image_scores) <= {0, 1, 2, 3, 5}


def test_different_classes_are_refused(segmenter: Segmenter) -> None:
    data = QuadrantImages()
    data.classes = ("road", "sky")
    with pytest.raises(AtrousError, match=r"predicts 3 classes .* the data set has 2"):
        evaluate(segmenter, data)
    with pytest.raises(AtrousError, match="holds no image"):
        evaluate(segmenter, QuadrantImages(0))


def test_the_crf_is_selected_by_its_preset(segmenter: Segmenter) -> None:
    result = evaluate(segmenter, QuadrantImages(1), crf="v2")
    assert result.confusion.pixel_accuracy > 0.9
    with pytest.raises(AtrousError, match="v2"):
        evaluate(segmenter, QuadrantImages(1), crf="v22")


def test_reports(segmenter: Segmenter, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, of the train extra")
    data = QuadrantImages()
    result = evaluate(segmenter, data)
    report = result_to_dict(result, data.classes, weights="w")
    write_json(tmp_path / "results.json", report)
    assert json.loads((tmp_path / "results.json").read_text()) == report
    assert report["images"] == 6
    assert len(report["trimap"]["miou"]) == 40
    assert report["classes"]["red"]["iou"] == pytest.approx(result.confusion.iou[0])
    plot_trimap(result, tmp_path / "trimap.png")
    plot_confusion(result, data.classes, tmp_path / "confusion.png")
    rows = [Comparison(data[i].image, data[i].labels, result.worst_predictions[i], "a") for i in result.worst()]
    draw_worst_images(rows, data.classes, segmenter.card.colors, tmp_path / "worst.png")
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "trimap.png", "confusion.png", "worst.png"}


def test_undefined_metrics_are_null_in_json() -> None:
    assert json.loads(json.dumps(result_to_dict(EvaluationResult.empty(2), ["a", "b"])))["metrics"]["mIoU"] is None
    assert math.isnan(EvaluationResult.empty(2).confusion.miou)


def test_metrics_are_added_to_the_card_and_tensors_stay(shared_data: Path, tmp_path: Path) -> None:
    model = load(shared_data / "weights" / "deeplabv3_257_mv_gpu.tflite")
    path = save(model, tmp_path / "a.safetensors", half=True)
    before = load(path)
    result = EvaluationResult.empty(21)
    result.add(0, np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), "x")
    for _ in range(2):  # a second time replaces the first
        add_to_card(path, result, "voc (1 image)", "atrous evaluate")
    figures = {figure.name: figure for figure in read_card(path).measured}
    assert len(figures) == len(read_card(path).measured) - len(model.card.measured)
    assert figures["mIoU"].value == 100
    assert figures["mIoU"].command == "atrous evaluate"
    after = load(path)
    assert all(torch.equal(value, after.state_dict()[key]) for key, value in before.state_dict().items())


def test_counts_on_real_images_equal_an_independent_count(shared_data: Path) -> None:
    data = open_dataset(f"voc2012:{shared_data / 'voc2012'}?split=val").select(range(6))
    segmenter = Segmenter.load(shared_data / "weights" / "deeplabv3_257_mv_gpu.tflite", device="cpu")
    result = evaluate(segmenter, data)
    counts = np.zeros((21, 21), np.int64)
    for index in range(len(data)):
        sample = data[index]
        valid = sample.labels != 255
        pairs = 21 * sample.labels[valid].astype(np.int64) + segmenter(sample.image_path).labels[valid]
        counts += np.bincount(pairs, minlength=441).reshape(21, 21)
    np.testing.assert_array_equal(result.confusion.counts, counts)
