"""What is shown for results and data sets at the end of a notebook's cell: one line, not arrays of pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from atrous import Segmenter
from atrous.crf import Gaussian
from atrous.data import open_dataset
from atrous.data.inspect import inspect_splits
from atrous.evaluation import EvaluationResult
from atrous.evaluation.crf_search import SearchResult, Trial
from atrous.inference import Segmentation
from tests.inference.networks import ChannelNetwork, quadrants, rgb_card
from tests.training.conftest import write_folder


def test_a_segmentation_and_a_segmenter() -> None:
    segmenter = Segmenter(ChannelNetwork(), rgb_card(), device="cpu")
    assert repr(segmenter) == f"<Segmenter {segmenter.card.model}: 3 classes; eager, float32, cpu>"
    result = segmenter(quadrants(40, 60), probabilities=True)
    assert repr(replace(result, probabilities=None)) == (
        "<Segmentation of 60 x 40 pixels: red 50.0%, green 25.0%, blue 25.0%>"
    )
    assert repr(result).endswith("blue 25.0%, with probabilities>")
    many = tuple("abcdefg")
    labels = np.arange(7, dtype=np.uint8)[None]
    shown = repr(Segmentation(np.zeros((1, 7, 3), np.uint8), labels, many, ((0, 0, 0),) * 7))
    assert shown.endswith("e 14.3%, 2 more>")


def test_data(tmp_path: Path) -> None:
    data = open_dataset(write_folder(tmp_path / "cells"), split="train")
    assert repr(data) == "<SegmentationDataset cells train: 4 images, 2 classes>"
    height, width = data[0].labels.shape
    assert repr(data[0]).startswith(f"<Sample train/0: {width} x {height} pixels, labels 0, 1")
    inspection = inspect_splits([data])
    counts = f"0 errors, {len(inspection.warnings)} warnings"
    assert repr(inspection) == f"<Inspection of cells: 4 images, {counts}>"


def test_evaluations() -> None:
    result = EvaluationResult.empty(2, boundaries=False)
    result.add(0, np.array([[0, 1]], np.uint8), np.array([[0, 1]], np.uint8), "a")
    assert repr(result).startswith("<EvaluationResult of 1 images: mIoU 100.00, pixel accuracy 100.00")
    best = Trial(4, 60, 5, 0.5)
    search = SearchResult([Trial(3, 30, 3, 0.25), best], 0.4, Gaussian(), 10)
    assert repr(search) == f"<SearchResult of 2 trials: mIoU before 0.4000, best {best}>"
