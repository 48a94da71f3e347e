"""The confusion matrix of a data set, and the figures that are read from it.

Every figure comes from the one matrix of all pixels, never from a mean over images: an image without a class would
count as a perfect or a hopeless one, and a few pixels as much as a thousand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atrous.errors import AtrousError

LabelMap: TypeAlias = "NDArray[np.integer] | Tensor"


class ConfusionMatrix:
    """How often a pixel of one class was taken for another: `counts[truth, prediction]`, int64.

    Pixels whose truth is `ignore_index` do not count. Matrices of parts of a data set, counted in other processes or on
    other days, add up: `a + b`, or `a.all_reduce()` within a `torch.distributed` group.

    Definitions (with n the counts, t_i the pixels of class i, p_i those predicted as i):
    IoU_i = n_ii / (t_i + p_i - n_ii), which is NaN for a class that is in neither truth nor prediction and 0 for one
    that is only predicted; mIoU, the mean of the IoUs that are not NaN; pixel accuracy, sum n_ii / sum t_i; mean
    accuracy, the mean of n_ii / t_i over the classes with t_i > 0; frequency-weighted IoU, sum t_i IoU_i / sum t_i.

    Source: Long, Shelhamer, Darrell: Fully Convolutional Networks, section 5; the VOC development kit.
    """

    def __init__(self, num_classes: int, *, ignore_index: int | None = 255) -> None:
        if num_classes < 1:
            raise AtrousError(f"{num_classes} classes: at least one is expected.")
        self.ignore_index = ignore_index
        self.counts: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.counts)

    def update(self, truth: LabelMap, prediction: LabelMap, *, name: str = "the label map") -> None:
        """Count the pixels of a label map, or of a batch of them; tensors are counted on their device.

        Shape: both (...) integers.
        Raises: `AtrousError` for maps of two sizes, or a value that is no class, which `name` is blamed for.
        """
        if tuple(truth.shape) != tuple(prediction.shape):
            raise AtrousError(f"{name}: the truth is {_shape(truth)}, the prediction {_shape(prediction)}.")
        if isinstance(truth, Tensor) and truth.device.type != "cpu":
            self._count_on_device(truth, torch.as_tensor(prediction, device=truth.device), name)
            return
        counts = np.zeros_like(self.counts)
        ignored = -1 if self.ignore_index is None else self.ignore_index
        with_void = self.ignore_index is not None
        if _count(_flat(truth), _flat(prediction), ignored, with_void, counts):
            self._complain(np.asarray(truth), np.asarray(prediction), name)
        self.counts += counts

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        if (self.num_classes, self.ignore_index) != (other.num_classes, other.ignore_index):
            raise AtrousError("These confusion matrices are of different classes, or ignore different labels.")
        both = ConfusionMatrix(self.num_classes, ignore_index=self.ignore_index)
        both.counts = self.counts + other.counts
        return both

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConfusionMatrix) and np.array_equal(self.counts, other.counts)

    __hash__ = None  # type: ignore[assignment]

    def all_reduce(self) -> None:
        """Add up the matrices of all processes of the default `torch.distributed` group; all have the sum then."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
            summed = torch.from_numpy(self.counts).to(device, copy=True)
            torch.distributed.all_reduce(summed)
            self.counts = summed.cpu().numpy()

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class; NaN where it is in neither truth nor prediction.

        Shape: (K,).
        """
        hit = self.counts.diagonal()
        return ratio(hit, self.counts.sum(0) + self.counts.sum(1) - hit)

    @property
    def miou(self) -> float:
        """The mean of the classes' IoU."""
        return mean(self.iou)

    @property
    def pixel_accuracy(self) -> float:
        """The share of pixels that are right."""
        return float(ratio(self.counts.trace(), self.counts.sum()))

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Of each class's pixels, the share that was found; NaN where the truth has none.

        Shape: (K,).
        """
        return ratio(self.counts.diagonal(), self.counts.sum(1))

    @property
    def mean_accuracy(self) -> float:
        """The mean over the classes of the truth of the share that was found."""
        return mean(self.accuracy)

    @property
    def frequency_weighted_iou(self) -> float:
        """IoU, each class weighted by its share of the truth."""
        pixels = self.counts.sum(1)
        return float(ratio((np.nan_to_num(self.iou) * pixels).sum(), pixels.sum()))

    def table(self, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """Per class: IoU, accuracy, and how many pixels the truth has."""
        return {
            name: {"iou": float(iou), "accuracy": float(accuracy), "pixels": float(pixels)}
            for name, iou, accuracy, pixels in zip(names, self.iou, self.accuracy, self.counts.sum(1), strict=True)
        }

    def _count_on_device(self, truth: Tensor, prediction: Tensor, name: str) -> None:
        truth, prediction = truth.reshape(-1).long(), prediction.reshape(-1).long()
        if self.ignore_index is not None:
            kept = truth != self.ignore_index
            truth, prediction = truth[kept], prediction[kept]
        for values in (truth, prediction):
            if values.numel() and not (int(values.min()) >= 0 and int(values.max()) < self.num_classes):
                self._complain(truth.numpy(force=True), prediction.numpy(force=True), name)
        pairs = torch.bincount(truth * self.num_classes + prediction, minlength=self.num_classes**2)
        self.counts += pairs.reshape(self.num_classes, self.num_classes).numpy(force=True)

    def _complain(self, truth: NDArray[Any], prediction: NDArray[Any], name: str) -> None:
        void = "" if self.ignore_index is None else f", or {self.ignore_index} in the truth for ignored pixels"
        for what, values in (("truth", truth[truth != self.ignore_index]), ("prediction", prediction)):
            wrong = np.unique(values[(values < 0) | (values >= self.num_classes)])
            if len(wrong):
                listed = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
                raise AtrousError(
                    f"{name}: the {what} holds {listed}; classes 0 to {self.num_classes - 1}{void} are expected."
                )


@numba.njit(cache=True, nogil=True)
def _count(truth, prediction, ignored, with_void, counts):  # type: ignore[no-untyped-def]
    """Add pairs to int64 `counts`; whether there was a value that is no class."""
    classes = len(counts)
    for index in range(len(truth)):
        true, found = np.int64(truth[index]), np.int64(prediction[index])
        if with_void and true == ignored:
            continue
        if true < 0 or true >= classes or found < 0 or found >= classes:
            return True
        counts[true, found] += 1
    return False


def _flat(labels: LabelMap) -> NDArray[np.integer]:
    array = labels.numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.dtype.kind not in "iu":
        raise AtrousError(f"Label maps hold integers, not {array.dtype}.")
    return np.ascontiguousarray(array).reshape(-1)


def _shape(labels: LabelMap) -> str:
    return " x ".join(map(str, labels.shape))


def ratio(part: Any, whole: Any, *, where: Any = None) -> Any:
    """Their quotient; NaN where `where` (by default a whole above 0) does not hold, else 0 where there is no whole."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    defined = whole > 0 if where is None else where
    return np.where(defined, np.divide(part, whole, out=np.zeros(whole.shape), where=whole > 0), np.nan)


def mean(values: NDArray[np.float64]) -> float:
    """Of those that are not NaN; NaN where all are."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")
