"""Evaluate a segmenter on a data set: several images side by side, counted in the background; counts can be resumed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from atrous.card import Card
from atrous.data.dataset import SegmentationDataset
from atrous.data.overlap import check_not_trained_on, unpack_digests
from atrous.errors import AtrousError, describe_unexpected
from atrous.evaluation.boundary import BoundaryScores, TrimapCurve
from atrous.evaluation.confusion import ConfusionMatrix
from atrous.files import writing
from atrous.imaging.archives import ArchiveError, read_arrays
from atrous.imaging.draw import LabeledImage
from atrous.imaging.labels import Labels
from atrous.inference import Segmenter
from atrous.inference.prefetch import BackgroundWorker, parallel_map
from atrous.inference.refine import segment
from atrous.progress import OnProgress

SAVE_INTERVAL = 30.0
"""Seconds between two writes of the checkpoint."""

NUM_WORST = 8
"""The number of worst images whose predictions are kept."""


class LabeledDataset(Protocol):
    """The interface of a data set that `evaluate` needs; `atrous.data.SegmentationDataset` implements it."""

    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def ignore_index(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> LabeledImage: ...


@dataclass
class EvaluationResult:
    """The counts and metrics of an evaluation, complete or in progress.

    `image_scores` is the mean IoU of each image over the classes of its truth, by the image's index; it serves to find
    the worst images, and its mean is not the mIoU. `settings` describes everything the counts depend on, so that a
    checkpoint is resumed only with the same settings.
    """

    confusion: ConfusionMatrix
    trimap: TrimapCurve | None
    boundary: BoundaryScores | None
    settings: str = ""
    image_scores: dict[int, float] = field(default_factory=dict)
    network_seconds: float = 0.0
    seconds: float = 0.0
    worst_predictions: dict[int, Labels] = field(default_factory=dict)
    """The predictions of the worst images by index, except for those counted by an earlier, interrupted process."""

    def __repr__(self) -> str:
        """Summarize in one line: the number of images, and the metrics in percent."""
        metrics = ", ".join(f"{name} {100 * value:.2f}" for name, value in self.metrics().items())
        return f"<EvaluationResult of {len(self.image_scores)} images: {metrics}>"

    @classmethod
    def empty(
        cls, num_classes: int, *, ignore_index: int = 255, boundaries: bool = True, settings: str = ""
    ) -> EvaluationResult:
        """Create a result without any image; without `boundaries` only the confusion matrix is counted."""
        return cls(
            ConfusionMatrix(num_classes, ignore_index=ignore_index),
            TrimapCurve(num_classes, ignore_index=ignore_index) if boundaries else None,
            BoundaryScores(num_classes, ignore_index=ignore_index) if boundaries else None,
            settings,
        )

    def add(self, index: int, truth: Labels, prediction: Labels, name: str) -> None:
        """Count one image.

        Raises: `AtrousError` for labels of different sizes or outside the classes; then nothing is counted.
        """
        image = ConfusionMatrix(self.confusion.num_classes, ignore_index=self.confusion.ignore_index)
        image.update(truth, prediction, name=name)
        self.confusion += image
        if self.trimap is not None:
            self.trimap.update(truth, prediction)
        if self.boundary is not None:
            self.boundary.update(truth, prediction)
        self.image_scores[index] = image.miou_of_truth
        self.worst_predictions[index] = prediction
        self._drop_better_predictions()

    def merge(self, part: EvaluationResult) -> None:
        """Add the counts of other images of the same data set, as if they had been counted here; `seconds` stay.

        Raises: `AtrousError` for other classes.
        """
        self.confusion += part.confusion
        if self.trimap is not None and part.trimap is not None:
            self.trimap.counts += part.trimap.counts
        if self.boundary is not None and part.boundary is not None:
            self.boundary.counts += part.boundary.counts
        self.image_scores.update(part.image_scores)
        self.network_seconds += part.network_seconds
        self.worst_predictions.update(part.worst_predictions)
        self._drop_better_predictions()

    def _drop_better_predictions(self) -> None:
        for better in set(self.worst_predictions) - set(self.worst()):
            del self.worst_predictions[better]

    def worst(self, count: int = NUM_WORST) -> list[int]:
        """List the indices of the images with the lowest scores, the lowest first; unlabeled images are left out."""
        scored = {index: score for index, score in self.image_scores.items() if not np.isnan(score)}
        return sorted(scored, key=lambda index: (scored[index], index))[:count]

    def metrics(self) -> dict[str, float]:
        """Compute the metrics of the whole data set, as fractions of 1."""
        metrics = {
            "mIoU": self.confusion.miou,
            "pixel accuracy": self.confusion.pixel_accuracy,
            "mean accuracy": self.confusion.mean_accuracy,
            "frequency-weighted IoU": self.confusion.frequency_weighted_iou,
        }
        if self.boundary is not None:
            metrics |= {"boundary IoU": self.boundary.miou, "boundary F": self.boundary.mean_f_score}
        return metrics

    def save(self, path: Path) -> None:
        """Save the counts as a checkpoint to resume from; predictions are not saved.

        Raises: `AtrousError` if the file cannot be written.
        """
        arrays: dict[str, NDArray[Any]] = {
            "settings": np.array(self.settings),
            "confusion": self.confusion.counts,
            "indices": np.array(list(self.image_scores), np.int64),
            "scores": np.array(list(self.image_scores.values()), np.float64),
            "seconds": np.array([self.seconds, self.network_seconds]),
        }
        if self.trimap is not None and self.boundary is not None:
            arrays |= {"trimap": self.trimap.counts, "boundary": self.boundary.counts}
        with writing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    def restore(self, path: Path) -> bool:
        """Restore the counts of a checkpoint and return True, or return False if its settings differ.

        Raises: `AtrousError` for a damaged file.
        """
        try:
            if str(read_arrays(path, "settings")[0]) != self.settings:
                return False
            parts: list[Any] = [self.confusion, *(part for part in (self.trimap, self.boundary) if part is not None)]
            names = ("confusion", "trimap", "boundary")[: len(parts)]
            for part, name, counts in zip(parts, names, read_arrays(path, *names), strict=True):
                if counts.shape != part.counts.shape or counts.dtype != part.counts.dtype:
                    raise ArchiveError(f"{name} is {counts.dtype} of shape {counts.shape}")
                part.counts = counts
            indices, scores, seconds = (array.tolist() for array in read_arrays(path, "indices", "scores", "seconds"))
            self.image_scores = {int(index): float(score) for index, score in zip(indices, scores, strict=True)}
            self.seconds, self.network_seconds = map(float, seconds)
        except (OSError, ValueError, TypeError, MemoryError) as error:
            raise AtrousError(
                f"{path}: the checkpoint of the evaluation is damaged ({describe_unexpected(error)}); remove it to "
                "start again."
            ) from error
        return True


def evaluate(
    segmenter: Segmenter,
    data: LabeledDataset,
    *,
    crf: str | None = None,
    boundaries: bool = True,
    allow_overlap: bool = False,
    checkpoint: Path | None = None,
    settings: str = "",
    on_progress: OnProgress | None = None,
) -> EvaluationResult:
    """Evaluate a segmenter on all images of a data set, several side by side, with resume.

    `crf` names the preset of a fully connected CRF that refines the probabilities. `boundaries` also counts trimap
    curve, boundary IoU and boundary F. `checkpoint` is a file in which the counts are saved every half minute and when
    the evaluation is interrupted; if it exists and has the same `settings`, the evaluation resumes from it.
    `allow_overlap` also evaluates on images that the network was trained on.

    Raises: `AtrousError` for classes that differ from the network's, an empty data set, images that the network was
    trained on according to its card, or an unusable checkpoint.
    """
    result, remaining = begin_evaluation(
        segmenter, data, boundaries=boundaries, allow_overlap=allow_overlap, checkpoint=checkpoint, settings=settings
    )
    network_start = segmenter.network_seconds - result.network_seconds

    def count(index: int, sample: LabeledImage, labels: Labels) -> None:
        result.add(index, sample.labels, labels, sample.name)
        result.network_seconds = segmenter.network_seconds - network_start
        saving.update()

    def predict(index: int) -> tuple[int, LabeledImage, Labels]:
        sample = data[index]
        return index, sample, segment(segmenter, sample.image, crf).labels

    with Saving(result, checkpoint) as saving:
        predictions = parallel_map(predict, remaining, segmenter.workers)
        with contextlib.closing(predictions), BackgroundWorker() as worker:
            for done, prediction in enumerate(predictions, len(data) - len(remaining) + 1):
                worker.submit(count, *prediction)
                if on_progress is not None:
                    on_progress(done, len(data))
    return result


def begin_evaluation(
    segmenter: Segmenter,
    data: LabeledDataset,
    *,
    boundaries: bool,
    allow_overlap: bool,
    checkpoint: Path | None,
    settings: str,
) -> tuple[EvaluationResult, list[int]]:
    """Check network and data set, restore the counts of a checkpoint, and list the images that are not counted yet.

    Raises: `AtrousError` as `evaluate`.
    """
    check_data(segmenter.card, data, allow_overlap=allow_overlap)
    result = EvaluationResult.empty(
        len(data.classes), ignore_index=data.ignore_index, boundaries=boundaries, settings=settings
    )
    if checkpoint is not None and checkpoint.exists():
        result.restore(checkpoint)
    return result, [index for index in range(len(data)) if index not in result.image_scores]


class Saving:
    """Measure the time of an evaluation, and save its counts every half minute and at the end of the block.

    Raises: `AtrousError` if the checkpoint cannot be written.
    """

    def __init__(self, result: EvaluationResult, checkpoint: Path | None) -> None:
        self._result = result
        self._checkpoint = checkpoint
        self._start = time.perf_counter() - result.seconds
        self._last_save = time.perf_counter()

    def update(self) -> None:
        """Record the time, and save if the last time was long ago."""
        now = time.perf_counter()
        self._result.seconds = now - self._start
        if self._checkpoint is not None and now - self._last_save > SAVE_INTERVAL:
            self._result.save(self._checkpoint)
            self._last_save = now

    def __enter__(self) -> Saving:
        return self

    def __exit__(self, *error: object) -> None:
        self._result.seconds = time.perf_counter() - self._start
        if self._checkpoint is not None and self._result.image_scores:
            self._result.save(self._checkpoint)


def check_data(card: Card, data: LabeledDataset, *, allow_overlap: bool) -> None:
    """Check that a network can be evaluated on a data set, unless `allow_overlap` one that it was not trained on.

    Raises: `AtrousError` as `check_classes`, and naming images that the network was trained on.
    """
    check_classes(card, data)
    if isinstance(data, SegmentationDataset) and not allow_overlap:
        trained = unpack_digests(card.trained_images)
        check_not_trained_on(trained, data, "pass allow_overlap=True (--allow-overlap)")


def check_classes(card: Card, data: LabeledDataset) -> None:
    """Check that a data set has images, and as many classes as the network.

    Raises: `AtrousError` if it does not.
    """
    if len(data) == 0:
        raise AtrousError("The data set holds no image: check its path and split.")
    network, dataset = card.classes, tuple(data.classes)
    if len(network) != len(dataset):
        raise AtrousError(
            f"The network predicts {len(network)} classes ({', '.join(network[:4])}, ...), the data set has "
            f"{len(dataset)} ({', '.join(dataset[:4])}, ...): use weights that were trained on these classes."
        )
