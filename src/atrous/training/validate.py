"""Judging a network during its training: whole images, one confusion matrix, all processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Subset

from atrous.card import Card
from atrous.data.dataset import Sample, SegmentationDataset
from atrous.evaluation.confusion import ConfusionMatrix
from atrous.imaging.io import Pixels
from atrous.inference.preprocess import preprocess
from atrous.layers.resize import resize
from atrous.models import SegmentationModel
from atrous.training.stage import Stage


@dataclass(frozen=True)
class ValidationResult:
    """The confusion matrix of all images, and what was found in the first of them."""

    matrix: ConfusionMatrix
    samples: list[Sample]
    predictions: list[NDArray[np.integer]]


def judge(
    model: SegmentationModel, card: Card, data: SegmentationDataset, stage: Stage, *, rank: int = 0, processes: int = 1
) -> ValidationResult:
    """Judge a network on a data set, each process every so-manieth image, none of them twice."""
    how = stage.evaluate
    count = min(len(data), how.images or len(data))
    loader: DataLoader[Sample] = DataLoader(
        Subset(data, range(rank, count, processes)),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=min(stage.workers, 2),
        collate_fn=_as_it_is,
        generator=torch.Generator(),
    )
    judgement = ValidationResult(ConfusionMatrix(len(card.classes), ignore_index=data.ignore_index), [], [])
    with _evaluating(model, how.output_stride), torch.inference_mode():
        for sample in loader:
            labels = _segment(model, card, sample.image)
            judgement.matrix.update(sample.labels, labels, name=str(sample.label_path))
            if len(judgement.samples) < how.samples:
                judgement.samples.append(sample)
                judgement.predictions.append(labels)
    judgement.matrix.all_reduce()
    return judgement


def _segment(model: SegmentationModel, card: Card, pixels: Pixels) -> NDArray[np.integer]:
    """The class of each pixel, the logits being resized before the largest is looked for.

    Shape: (H, W, 3) -> (H, W).
    """
    tensor, (height, width) = preprocess(pixels, card.preprocessing)
    logits = model(tensor[None].to(next(model.parameters())))[..., :height, :width].float()
    size = (pixels.shape[0], pixels.shape[1])
    if logits.shape[-2:] != size:
        logits = resize(logits, size, align_corners=card.align_corners)
    return logits.argmax(1)[0].numpy(force=True)


@contextmanager
def _evaluating(model: SegmentationModel, output_stride: int | None) -> Iterator[None]:
    training, own = model.training, model.output_stride
    model.eval()
    if output_stride is not None:
        model.set_output_stride(output_stride)
    try:
        yield
    finally:
        if output_stride is not None:
            model.set_output_stride(own)
        model.train(training)


def _as_it_is(sample: Any) -> Any:
    return sample
