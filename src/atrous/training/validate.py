"""Validation during training: whole images, one confusion matrix over all processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Subset

from atrous.card import Card
from atrous.data.dataset import Sample, SegmentationDataset
from atrous.data.loading import SampleLoader
from atrous.evaluation.confusion import ConfusionMatrix
from atrous.imaging.io import Pixels
from atrous.inference.preprocess import preprocess
from atrous.inference.segmenter import Segmenter
from atrous.layers.mode import evaluation_mode
from atrous.layers.resize import resize
from atrous.models import SegmentationModel
from atrous.training.config import StageConfig


@dataclass(frozen=True)
class ValidationResult:
    """The confusion matrix over all images, and the predictions for the first of them."""

    matrix: ConfusionMatrix
    samples: list[Sample]
    predictions: list[NDArray[np.integer]]

    def missing_classes(self, classes: Sequence[str]) -> list[str]:
        """List the classes that occur in the ground truth but were never predicted."""
        true, predicted = self.matrix.counts.sum(1), self.matrix.counts.sum(0)
        return [name for index, name in enumerate(classes) if true[index] and not predicted[index]]


def validate(
    model: SegmentationModel,
    card: Card,
    data: SegmentationDataset,
    stage: StageConfig,
    *,
    rank: int = 0,
    processes: int = 1,
) -> ValidationResult:
    """Validate a network on a data set; each of several processes takes every n-th image, so that each counts once."""
    config = stage.evaluate
    count = min(len(data), config.max_images or len(data))
    loader: DataLoader[Sample] = SampleLoader(
        Subset(data, range(rank, count, processes)),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=min(stage.workers, 2),
        generator=torch.Generator(),  # so that loading does not consume the global random numbers
    )
    result = ValidationResult(ConfusionMatrix(num_classes=len(card.classes), ignore_index=data.ignore_index), [], [])
    with evaluation_mode(model), _at_output_stride(model, config.output_stride), torch.inference_mode():
        segmenter = Segmenter(model, card, device=next(model.parameters()).device, tta=config.tta)
        for sample in loader:
            if config.tta == "none":
                labels = _predict(model, card, sample.image)
            else:
                labels = segmenter(sample.image).labels
            result.matrix.update(sample.labels, labels, name=str(sample.mask_path))
            if len(result.samples) < config.samples:
                result.samples.append(sample)
                result.predictions.append(labels)
    result.matrix.all_reduce()
    return result


def _predict(model: SegmentationModel, card: Card, pixels: Pixels) -> NDArray[np.integer]:
    """Predict the class of each pixel; the logits are resized to the image before the arg-max.

    Shape: (H, W, 3) -> (H, W).
    """
    # Not `Segmenter`, which gives the network float32: here it keeps the precision of the training, 64 bits too.
    planes, (height, width) = preprocess(pixels, card.preprocessing)
    logits = model(torch.from_numpy(planes[None]).to(next(model.parameters())))[..., :height, :width].float()
    size = (pixels.shape[0], pixels.shape[1])
    if logits.shape[-2:] != size:
        logits = resize(logits, size, align_corners=card.align_corners)
    return logits.argmax(1)[0].numpy(force=True)


@contextmanager
def _at_output_stride(model: SegmentationModel, output_stride: int | None) -> Iterator[None]:
    """Run a network at another output stride, if one is given."""
    if output_stride is None:
        yield
        return
    stride = model.output_stride
    model.set_output_stride(output_stride)
    try:
        yield
    finally:
        model.set_output_stride(stride)
