"""A network measured on a data set: the figures, what is kept, what is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from atrous import AtrousError, Segmenter
from atrous.evaluation import ConfusionMatrix, evaluate
from tests.inference.test_strategies import Pointwise, card, picture


@dataclass
class Sample:
    image: np.ndarray
    labels: np.ndarray
    name: str


class Set(list):
    classes = ("red", "green", "blue")
    ignore_index = 255


def data(count: int = 5) -> Set:
    samples = Set()
    for index in range(count):
        image = picture(30 + index, 40)
        labels = image.argmax(2).astype(np.uint8)
        labels[: index + 1] = (labels[: index + 1] + 1) % 3  # ever more of it wrong
        labels[-1] = 255
        samples.append(Sample(image, labels, f"image {index}"))
    return samples


def test_the_matrix_is_that_of_all_images() -> None:
    segmenter = Segmenter(Pointwise(), card(), device="cpu")
    found = evaluate(segmenter, data())
    expected = ConfusionMatrix(3)
    for sample in data():
        expected.update(sample.labels, segmenter(sample.image).labels)
    assert found.confusion == expected
    assert 0.5 < found.figures()["mIoU"] < 1
    assert found.worst(1) == [4]


def test_what_was_interrupted_goes_on_and_counts_nothing_twice(tmp_path: Path) -> None:
    segmenter = Segmenter(Pointwise(), card(), device="cpu")
    whole = evaluate(segmenter, data())

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(segmenter, data(), keep=tmp_path / "kept.npz", settings="a", progress=stop)
    before = len(segmenter.model.seen)
    resumed = evaluate(segmenter, data(), keep=tmp_path / "kept.npz", settings="a")
    assert resumed.confusion == whole.confusion
    assert resumed.figures() == whole.figures()
    assert len(segmenter.model.seen) - before < 5
    other = evaluate(segmenter, data(2), keep=tmp_path / "kept.npz", settings="b")
    assert len(other.scores) == 2


def test_damage_empty_sets_and_other_classes_are_told(tmp_path: Path) -> None:
    segmenter = Segmenter(Pointwise(), card(), device="cpu")
    (tmp_path / "kept.npz").write_bytes(b"PK damaged")
    with pytest.raises(AtrousError, match="damaged"):
        evaluate(segmenter, data(), keep=tmp_path / "kept.npz")
    with pytest.raises(AtrousError, match="holds no image"):
        evaluate(segmenter, Set())
    others = data()
    others.classes = ("one", "two")
    with pytest.raises(AtrousError, match="knows 3 classes"):
        evaluate(segmenter, others)


def test_a_network_that_is_wrong_about_a_sample_is_not_counted_half() -> None:
    samples = data(2)
    samples[1].labels[0, 0] = 9
    with pytest.raises(AtrousError, match=r"image 1: the truth holds 9"):
        evaluate(Segmenter(Pointwise(), card(), device="cpu"), samples)
