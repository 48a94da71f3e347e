"""A network measured on a data set: read ahead, looked at, counted behind; to be stopped and gone on with at will."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from atrous.crf import dense_crf_labels
from atrous.errors import AtrousError
from atrous.evaluation.boundary import BoundaryScores, TrimapCurve
from atrous.evaluation.confusion import ConfusionMatrix, mean
from atrous.files import writing
from atrous.imaging.io import Pixels
from atrous.imaging.labels import Labels
from atrous.inference import Segmenter
from atrous.inference.prefetch import BackgroundWorker, prefetch

SAVE_EVERY = 30.0
"""Seconds between two writings of what is done."""

WORST = 8
"""How many of the worst images are kept to be looked at."""


class LabeledImage(Protocol):
    """An image and its truth: (H, W, 3) uint8 and (H, W) integers."""

    @property
    def image(self) -> Pixels: ...
    @property
    def labels(self) -> Labels: ...
    @property
    def name(self) -> str: ...


class LabeledImages(Protocol):
    """What is asked of a data set; `atrous.data.SegmentationDataset` is one."""

    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def ignore_index(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> LabeledImage: ...


@dataclass
class Evaluation:
    """What was counted so far, of which images.

    `scores` is each image's mean IoU over the classes of its truth: to find the worst images by, and no mIoU.
    `settings` names all that the figures depend on, so that only what belongs together is gone on with.
    """

    confusion: ConfusionMatrix
    trimap: TrimapCurve | None
    boundary: BoundaryScores | None
    settings: str = ""
    scores: dict[int, float] = field(default_factory=dict)
    network_seconds: float = 0.0
    seconds: float = 0.0
    kept: dict[int, Labels] = field(default_factory=dict)
    """The predictions of the worst images, those of them that this process made."""

    @classmethod
    def empty(cls, classes: int, *, ignore_index: int = 255, boundaries: bool = True, settings: str = "") -> Evaluation:
        """Of nothing yet; without `boundaries` only the confusion matrix is counted."""
        return cls(
            ConfusionMatrix(classes, ignore_index=ignore_index),
            TrimapCurve(classes, ignore_index=ignore_index) if boundaries else None,
            BoundaryScores(classes, ignore_index=ignore_index) if boundaries else None,
            settings,
        )

    def add(self, index: int, truth: Labels, prediction: Labels, name: str) -> None:
        """Count one image.

        Raises: `AtrousError` for labels that are of another size or of no class; nothing is counted then.
        """
        image = ConfusionMatrix(self.confusion.num_classes, ignore_index=self.confusion.ignore_index)
        image.update(truth, prediction, name=name)
        self.confusion += image
        if self.trimap is not None:
            self.trimap.update(truth, prediction)
        if self.boundary is not None:
            self.boundary.update(truth, prediction)
        self.scores[index] = mean(image.iou[image.counts.sum(1) > 0])
        self.kept[index] = prediction
        for better in set(self.kept) - set(self.worst()):
            del self.kept[better]

    def worst(self, count: int = WORST) -> list[int]:
        """The indices of the images with the lowest scores, the lowest first; those without any truth have none."""
        scored = {index: score for index, score in self.scores.items() if not np.isnan(score)}
        return sorted(scored, key=lambda index: (scored[index], index))[:count]

    def figures(self) -> dict[str, float]:
        """The figures of the whole, as shares of 1."""
        found = {
            "mIoU": self.confusion.miou,
            "pixel accuracy": self.confusion.pixel_accuracy,
            "mean accuracy": self.confusion.mean_accuracy,
            "frequency-weighted IoU": self.confusion.frequency_weighted_iou,
        }
        if self.boundary is not None:
            found |= {"boundary IoU": self.boundary.miou, "boundary F": self.boundary.mean_f}
        return found

    def save(self, path: Path) -> None:
        """Write all of it but the kept predictions, to go on from.

        Raises: `AtrousError` for a place that cannot be written.
        """
        arrays: dict[str, NDArray[Any]] = {
            "settings": np.array(self.settings),
            "confusion": self.confusion.counts,
            "indices": np.array(list(self.scores), np.int64),
            "scores": np.array(list(self.scores.values()), np.float64),
            "seconds": np.array([self.seconds, self.network_seconds]),
        }
        if self.trimap is not None and self.boundary is not None:
            arrays |= {"trimap": self.trimap.counts, "boundary": self.boundary.counts}
        with writing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    def restore(self, path: Path) -> bool:
        """Go on from what was saved, if it was of the same settings; whether it was.

        Raises: `AtrousError` for a damaged file.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if str(arrays["settings"]) != self.settings:
                    return False
                self.confusion.counts = arrays["confusion"]
                if self.trimap is not None and self.boundary is not None:
                    self.trimap.counts, self.boundary.counts = arrays["trimap"], arrays["boundary"]
                self.scores = dict(zip(arrays["indices"].tolist(), arrays["scores"].tolist(), strict=True))
                self.seconds, self.network_seconds = arrays["seconds"].tolist()
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise AtrousError(f"{path}: what was kept of an evaluation is damaged ({error}); remove it.") from error
        return True


def evaluate(
    segmenter: Segmenter,
    data: LabeledImages,
    *,
    crf: str | None = None,
    boundaries: bool = True,
    keep: Path | None = None,
    settings: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Segment all images of a data set and count.

    `crf` names the preset of a fully connected CRF that refines the probabilities. `keep` is a file in which what is
    done is kept, every half minute and when the work is interrupted, and from which it goes on if it was begun with the
    same `settings`. `progress` is called with how many images are done, and of how many.

    Raises: `AtrousError` for classes that are not the network's, an empty data set, or a file that cannot be used.
    """
    check_classes(segmenter, data)
    done = Evaluation.empty(len(data.classes), ignore_index=data.ignore_index, boundaries=boundaries, settings=settings)
    if keep is not None and keep.exists():
        done.restore(keep)
    todo = [index for index in range(len(data)) if index not in done.scores]
    begun = time.perf_counter() - done.seconds
    network_before = segmenter.network_seconds - done.network_seconds
    saved = time.perf_counter()

    def count(index: int, sample: LabeledImage, labels: Labels) -> None:
        nonlocal saved
        done.add(index, sample.labels, labels, sample.name)
        done.seconds = time.perf_counter() - begun
        done.network_seconds = segmenter.network_seconds - network_before
        if keep is not None and time.perf_counter() - saved > SAVE_EVERY:
            done.save(keep)
            saved = time.perf_counter()

    def samples() -> Iterator[tuple[int, LabeledImage]]:
        for index in todo:
            yield index, data[index]

    try:
        with BackgroundWorker() as worker:
            for number, (index, sample) in enumerate(prefetch(samples()), len(data) - len(todo) + 1):
                worker.submit(count, index, sample, predict(segmenter, sample.image, crf))
                if progress is not None:
                    progress(number, len(data))
    finally:
        if keep is not None and done.scores:
            done.save(keep)
    done.seconds = time.perf_counter() - begun
    return done


@torch.inference_mode()
def predict(segmenter: Segmenter, image: Pixels, crf: str | None = None) -> Labels:
    """The labels of an image, after a CRF's preset if one is named.

    Shape: (H, W, 3) uint8 -> (H, W).
    """
    if crf is None:
        return segmenter(image).labels
    probabilities = segmenter.probabilities(image).cpu().numpy()
    return np.asarray(dense_crf_labels(image, probabilities, preset=crf))


def check_classes(segmenter: Segmenter, data: LabeledImages) -> None:
    """Raises: `AtrousError` where a network and a data set do not speak of the same classes, or there is no image."""
    if len(data) == 0:
        raise AtrousError("The data set holds no image.")
    known, asked = segmenter.card.classes, tuple(data.classes)
    if len(known) != len(asked):
        raise AtrousError(
            f"The network knows {len(known)} classes ({', '.join(known[:4])}, ...), the data set has {len(asked)} "
            f"({', '.join(asked[:4])}, ...): take weights that were trained on these classes."
        )
