"""The confusion matrix of a data set, and mIoU and other metrics computed from it.

All metrics come from one matrix of all pixels, never from a mean over images: there, an image without a class would
count as perfect or hopeless, and a few pixels of a class as much as a thousand.
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
    """Confusion matrix: the number of pixels for each pair of true and predicted class.

    `counts[truth, prediction]`, int64, grows with each `update`. Pixels whose truth is `ignore_index` do not count. Add
    the matrices of parts of a data set with `a + b`, or with `a.all_reduce()` within a `torch.distributed` group.

    Definitions (with n the counts, t_i the pixels of class i, p_i those predicted as i):
    IoU_i = n_ii / (t_i + p_i - n_ii), which is NaN for a class that is in neither truth nor prediction and 0 for one
    that is only predicted; mIoU, the mean of the IoUs that are not NaN; pixel accuracy, sum n_ii / sum t_i; mean
    accuracy, the mean of n_ii / t_i over the classes with t_i > 0; frequency-weighted IoU, sum t_i IoU_i / sum t_i.

    Source: Long, Shelhamer, Darrell: Fully Convolutional Networks, section 5; the VOC development kit.
    """

    def __init__(self, num_classes: int, *, ignore_index: int | None = 255) -> None:
        if num_classes < 1:
            raise AtrousError(f"num_classes is {num_classes}: at least 1 is expected.")
        self.ignore_index = ignore_index
        self.counts: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.counts)

    def update(self, truth: LabelMap, prediction: LabelMap, *, name: str = "the label map") -> None:
        """Count the pixels of a label map, or of a batch of label maps; tensors are counted on their device.

        Shape: both (...) integers.
        Raises: `AtrousError` for maps of different sizes, or a value outside the classes; `name` is in the message.
        """
        if tuple(truth.shape) != tuple(prediction.shape):
            raise AtrousError(
                f"{name}: the truth is {_shape(truth)}, the prediction {_shape(prediction)}. "
                "Resize the prediction (nearest neighbor) to the truth first."
            )
        if isinstance(truth, Tensor) and truth.device.type != "cpu":
            self._count_on_device(truth, torch.as_tensor(prediction, device=truth.device), name)
            return
        counts = np.zeros_like(self.counts)
        ignore_index = -1 if self.ignore_index is None else self.ignore_index
        if _count(_flat(truth), _flat(prediction), ignore_index, self.ignore_index is not None, counts):
            self._raise_invalid(np.asarray(truth), np.asarray(prediction), name)
        self.counts += counts

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        if (self.num_classes, self.ignore_index) != (other.num_classes, other.ignore_index):
            raise AtrousError("Cannot add confusion matrices with different classes or ignored labels.")
        total = ConfusionMatrix(self.num_classes, ignore_index=self.ignore_index)
        total.counts = self.counts + other.counts
        return total

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConfusionMatrix) and np.array_equal(self.counts, other.counts)

    __hash__ = None  # type: ignore[assignment]

    def all_reduce(self) -> None:
        """Sum the matrices of all processes of the default `torch.distributed` group, so that all have the total."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
            counts = torch.from_numpy(self.counts).to(device, copy=True)
            torch.distributed.all_reduce(counts)
            self.counts = counts.cpu().numpy()

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class; NaN for a class in neither truth nor prediction.

        Shape: (K,).
        """
        correct = self.counts.diagonal()
        return safe_divide(correct, self.counts.sum(0) + self.counts.sum(1) - correct)

    @property
    def miou(self) -> float:
        """Mean intersection over union: the mean of `iou` over the classes where it is defined."""
        return nan_mean(self.iou)

    @property
    def miou_of_truth(self) -> float:
        """Mean intersection over union over the classes of the truth: the score of a single image."""
        return nan_mean(self.iou[self.counts.sum(1) > 0])

    @property
    def pixel_accuracy(self) -> float:
        """The fraction of pixels that are predicted correctly."""
        return float(safe_divide(self.counts.trace(), self.counts.sum()))

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """The fraction of each class's pixels that are predicted correctly (recall); NaN for a class not in the truth.

        Shape: (K,).
        """
        return safe_divide(self.counts.diagonal(), self.counts.sum(1))

    @property
    def mean_accuracy(self) -> float:
        """The mean of `accuracy` over the classes in the truth."""
        return nan_mean(self.accuracy)

    @property
    def frequency_weighted_iou(self) -> float:
        """The mean of `iou`, weighted by each class's fraction of the true pixels."""
        pixels = self.counts.sum(1)
        return float(safe_divide((np.nan_to_num(self.iou) * pixels).sum(), pixels.sum()))

    def per_class(self, class_names: Sequence[str]) -> dict[str, dict[str, float]]:
        """Tabulate IoU, accuracy and the number of true pixels for each class."""
        return {
            name: {"iou": float(iou), "accuracy": float(accuracy), "pixels": float(pixels)}
            for name, iou, accuracy, pixels in zip(
                class_names, self.iou, self.accuracy, self.counts.sum(1), strict=True
            )
        }

    def _count_on_device(self, truth: Tensor, prediction: Tensor, name: str) -> None:
        truth, prediction = truth.reshape(-1).long(), prediction.reshape(-1).long()
        if self.ignore_index is not None:
            counted = truth != self.ignore_index
            truth, prediction = truth[counted], prediction[counted]
        for values in (truth, prediction):
            if values.numel() and not (int(values.min()) >= 0 and int(values.max()) < self.num_classes):
                self._raise_invalid(truth.numpy(force=True), prediction.numpy(force=True), name)
        pairs = torch.bincount(truth * self.num_classes + prediction, minlength=self.num_classes**2)
        self.counts += pairs.reshape(self.num_classes, self.num_classes).numpy(force=True)

    def _raise_invalid(self, truth: NDArray[Any], prediction: NDArray[Any], name: str) -> None:
        ignored = "" if self.ignore_index is None else f", or {self.ignore_index} in the truth for ignored pixels"
        for source, values in (("truth", truth[truth != self.ignore_index]), ("prediction", prediction)):
            invalid = np.unique(values[(values < 0) | (values >= self.num_classes)])
            if len(invalid):
                listed = ", ".join(map(str, invalid[:5])) + (", ..." if len(invalid) > 5 else "")
                raise AtrousError(
                    f"{name}: the {source} holds {listed}; classes 0 to {self.num_classes - 1}{ignored} are expected."
                )


@numba.njit(cache=True, nogil=True)
def _count(truth, prediction, ignore_index, has_ignore_index, counts):  # type: ignore[no-untyped-def]
    """Add pixels to int64 `counts`; return True as soon as a value is outside the classes."""
    classes = len(counts)
    for index in range(len(truth)):
        true, predicted = np.int64(truth[index]), np.int64(prediction[index])
        if has_ignore_index and true == ignore_index:
            continue
        if true < 0 or true >= classes or predicted < 0 or predicted >= classes:
            return True
        counts[true, predicted] += 1
    return False


def _flat(labels: LabelMap) -> NDArray[np.integer]:
    array = labels.numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.dtype.kind not in "iu":
        raise AtrousError(
            f"Label maps must hold integers, not {array.dtype}: convert them, for example with astype('int64')."
        )
    return np.ascontiguousarray(array).reshape(-1)


def _shape(labels: LabelMap) -> str:
    return " x ".join(map(str, labels.shape))


def safe_divide(numerator: Any, denominator: Any, *, where: Any = None) -> Any:
    """Divide elementwise; NaN where `where` is false (by default where the denominator is 0), and else 0 for x / 0."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    defined = denominator > 0 if where is None else where
    quotient = np.divide(numerator, denominator, out=np.zeros(denominator.shape), where=denominator > 0)
    return np.where(defined, quotient, np.nan)


def nan_mean(values: NDArray[np.float64]) -> float:
    """Average the values that are not NaN; NaN if there are none."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")
