from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from atrous import AtrousError, Segmenter
from atrous.cli.evaluate import _enter
from atrous.data import open_dataset
from atrous.evaluation import ConfusionMatrix, Evaluation, evaluate
from atrous.evaluation.evaluate import predict
from atrous.evaluation.report import as_json, draw_worst, plot_confusion, plot_trimap, write_json
from atrous.weights import load, read_card, save
from tests.inference.test_segmenter import Brightest, card, picture


@dataclass
class Pictures:
    """Images whose truth the network finds, but for a stripe of one class that is called another."""

    count: int = 6
    classes = ("red", "green", "blue")
    ignore_index = 255

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        image = picture(30 + index, 40)
        labels = image.argmax(2).astype(np.uint8)
        labels[:, : 2 * index] = 1
        labels[0] = 255

        class Sample:
            pass

        sample = Sample()
        sample.image, sample.labels, sample.name = image, labels, f"picture {index}"
        return sample


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(Brightest(), card(), device="cpu")


def counted(segmenter: Segmenter, data: Pictures) -> ConfusionMatrix:
    matrix = ConfusionMatrix(3)
    for index in range(len(data)):
        matrix.update(data[index].labels, segmenter(data[index].image).labels)
    return matrix


def test_all_images_count_once(segmenter: Segmenter) -> None:
    data, told = Pictures(), []
    found = evaluate(segmenter, data, progress=lambda done, total: told.append((done, total)))
    assert found.confusion == counted(segmenter, data)
    assert told == [(n, 6) for n in range(1, 7)]
    assert found.worst(2) == [5, 4]
    assert 0 < found.network_seconds < found.seconds
    assert found.figures()["mIoU"] == found.confusion.miou
    assert evaluate(segmenter, data, boundaries=False).figures().keys() == {
        "mIoU", "pixel accuracy", "mean accuracy", "frequency-weighted IoU",
    }  # fmt: skip


def test_an_interrupted_evaluation_goes_on(segmenter: Segmenter, tmp_path: Path) -> None:
    keep = tmp_path / "kept.npz"

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(segmenter, Pictures(), keep=keep, settings="a", progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.npz"]
    told: list[int] = []
    found = evaluate(segmenter, Pictures(), keep=keep, settings="a", progress=lambda done, _: told.append(done))
    whole = evaluate(segmenter, Pictures())
    assert 3 <= len(told) < 6
    assert found.confusion == whole.confusion
    np.testing.assert_array_equal(found.trimap.counts, whole.trimap.counts)
    np.testing.assert_array_equal(found.boundary.counts, whole.boundary.counts)
    assert found.scores == whole.scores
    other = Evaluation.empty(3, settings="b")
    assert not other.restore(keep)
    assert other.confusion.counts.sum() == 0
    keep.write_bytes(b"PK\x03\x04 no more")
    with pytest.raises(AtrousError, match="is damaged"):
        evaluate(segmenter, Pictures(), keep=keep, settings="a")


def test_a_wrong_mask_is_named_and_what_was_done_is_kept(segmenter: Segmenter, tmp_path: Path) -> None:
    class Wrong(Pictures):
        def __getitem__(self, index: int):
            sample = super().__getitem__(index)
            if index == 4:
                sample.labels[5, 5] = 9
            return sample

    with pytest.raises(AtrousError, match=r"picture 4: the truth holds 9; classes 0 to 2, or 255"):
        evaluate(segmenter, Wrong(), keep=tmp_path / "kept.npz")
    done = Evaluation.empty(3)
    assert done.restore(tmp_path / "kept.npz")
    assert {0, 1, 2, 3} <= set(done.scores) <= {0, 1, 2, 3, 5}


def test_other_classes_are_refused(segmenter: Segmenter) -> None:
    data = Pictures()
    data.classes = ("road", "sky")
    with pytest.raises(AtrousError, match=r"knows 3 classes .* the data set has 2"):
        evaluate(segmenter, data)
    with pytest.raises(AtrousError, match="holds no image"):
        evaluate(segmenter, Pictures(0))


def test_the_crf_is_asked_for_by_its_preset(segmenter: Segmenter) -> None:
    labels = predict(segmenter, picture(30, 40), "v2")
    assert labels.shape == (30, 40)
    assert (labels == picture(30, 40).argmax(2)).mean() > 0.9
    with pytest.raises(AtrousError, match="v2"):
        predict(segmenter, picture(30, 40), "v22")


def test_reports(segmenter: Segmenter, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, of the train extra")
    data = Pictures()
    found = evaluate(segmenter, data)
    result = as_json(found, data.classes, weights="w")
    write_json(result, tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text()) == result
    assert result["images"] == 6
    assert len(result["trimap"]["miou"]) == 40
    assert result["classes"]["red"]["iou"] == pytest.approx(found.confusion.iou[0])
    plot_trimap(found, tmp_path / "trimap.png")
    plot_confusion(found, data.classes, tmp_path / "confusion.png")
    rows = [(data[i].image, data[i].labels, found.kept[i]) for i in found.worst()]
    draw_worst(rows, segmenter.card.colors, 255, tmp_path / "worst.png")
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "trimap.png", "confusion.png", "worst.png"}


def test_undefined_figures_are_null_in_json() -> None:
    assert json.loads(json.dumps(as_json(Evaluation.empty(2), ["a", "b"])))["figures"]["mIoU"] is None
    assert math.isnan(Evaluation.empty(2).confusion.miou)


def test_figures_go_into_the_card_and_the_tensors_stay(shared_data: Path, tmp_path: Path) -> None:
    model = load(shared_data / "weights" / "deeplabv3_257_mv_gpu.tflite")
    path = save(model, tmp_path / "a.safetensors", half=True)
    before = load(path)
    found = Evaluation.empty(21)
    found.add(0, np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), "x")
    for _ in range(2):  # a second time replaces the first
        _enter(path, found, "voc (1 image)", "atrous evaluate")
    figures = {figure.name: figure for figure in read_card(path).measured}
    assert len(figures) == len(read_card(path).measured) - len(model.card.measured)
    assert figures["mIoU"].value == 100
    assert figures["mIoU"].command == "atrous evaluate"
    after = load(path)
    assert all(torch.equal(value, after.state_dict()[key]) for key, value in before.state_dict().items())


def test_on_real_images_it_is_the_independent_count(shared_data: Path) -> None:
    data = open_dataset(f"voc2012:{shared_data / 'voc2012'}?split=val").select(range(6))
    segmenter = Segmenter.load(shared_data / "weights" / "deeplabv3_257_mv_gpu.tflite", device="cpu")
    found = evaluate(segmenter, data)
    counts = np.zeros((21, 21), np.int64)
    for index in range(len(data)):
        sample = data[index]
        valid = sample.labels != 255
        pairs = 21 * sample.labels[valid].astype(np.int64) + segmenter(sample.image_path).labels[valid]
        counts += np.bincount(pairs, minlength=441).reshape(21, 21)
    np.testing.assert_array_equal(found.confusion.counts, counts)
