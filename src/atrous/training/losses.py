"""What training minimizes: functions of logits and labels that leave the ignore index out.

All are means over valid pixels (or classes), so that a crop that is half padding counts as much as a full one. In a
`torch.distributed` group the mean is over the pixels of all processes: the gradients, which are averaged over
processes, are then those of one process with all their images. A batch without a valid pixel costs 0 and moves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from atrous.errors import AtrousError


class Loss(Protocol):
    """What all losses are."""

    def __call__(self, logits: Tensor, labels: Tensor, step: int = 0) -> Tensor:
        """`step` counts the optimizer's steps from 0, for losses that change in time.

        Shape: (N, K, H, W) float and (N, H, W) int64 -> ().
        """


@dataclass(frozen=True)
class CrossEntropy:
    """Soft-max cross-entropy.

    `class_weights` multiply the pixels of each class; the mean is over the number of valid pixels, not over the sum of
    their weights, as in Caffe (torch divides by the weights, which undoes much of them in an image of few classes).
    `reduction="sum"` does not divide at all: FCN's "un-normalized" loss. `label_smoothing` gives that share of the
    truth to all classes evenly.

    Source: FCN's released solvers (sum), SegNet section 3.1 (weights), Szegedy et al., arXiv 1512.00567, section 7.
    """

    class_weights: Sequence[float] | None = None
    label_smoothing: float = 0.0
    reduction: Literal["mean", "sum"] = "mean"
    ignore_index: int = 255

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise AtrousError(f"label_smoothing {self.label_smoothing}: expected 0 or more, and less than 1.")
        if self.reduction not in ("mean", "sum"):
            raise AtrousError(f"reduction '{self.reduction}': it is 'mean' or 'sum'.")

    def __call__(self, logits: Tensor, labels: Tensor, step: int = 0) -> Tensor:
        costs = self.pixels(logits, labels)
        if self.reduction == "sum":
            return costs.sum() * _processes()
        return _mean_over(costs, labels != self.ignore_index)

    def pixels(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The cost of each pixel, 0 for the ignored.

        Shape: (N, K, H, W) and (N, H, W) -> (N, H, W).
        """
        if self.class_weights is not None and len(self.class_weights) != logits.shape[1]:
            raise AtrousError(f"{len(self.class_weights)} class weights are given for {logits.shape[1]} classes.")
        weights = None if self.class_weights is None else logits.new_tensor(self.class_weights)
        return F.cross_entropy(
            logits,
            labels,
            weight=weights,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction="none",
        )


@dataclass(frozen=True)
class HardPixels:
    """Cross-entropy of the costliest pixels alone: the `top` share of all, ignored ones counted.

    In the first `steps` steps the share falls evenly from 1 to `top`. The mean is over those of the chosen pixels that
    cost anything.

    Source: `add_softmax_cross_entropy_loss_for_each_scale` of TensorFlow DeepLab (`top_k_percent_pixels`,
    `hard_example_mining_step`).
    """

    top: float = 0.25
    steps: int = 0
    class_weights: Sequence[float] | None = None
    ignore_index: int = 255

    def __post_init__(self) -> None:
        if not 0 < self.top <= 1:
            raise AtrousError(f"top {self.top}: the share of pixels is more than 0, and 1 or less.")

    def __call__(self, logits: Tensor, labels: Tensor, step: int = 0) -> Tensor:
        costs = CrossEntropy(self.class_weights, ignore_index=self.ignore_index).pixels(logits, labels).flatten()
        chosen = costs.topk(self.count(costs.numel(), step), sorted=False).values
        return _mean_over(chosen, chosen != 0)

    def count(self, pixels: int, step: int) -> int:
        """How many of `pixels` pixels count at a step."""
        done = min(1.0, step / self.steps) if self.steps else 1.0
        return max(1, int((done * self.top + (1 - done)) * pixels))


@dataclass(frozen=True)
class Focal:
    """Cross-entropy, each pixel times (1 - p)^gamma, with p the probability of its class: easy pixels count less.

    Source: Lin et al., arXiv 1708.02002, equation 5; `class_weights` are its alpha.
    """

    gamma: float = 2.0
    class_weights: Sequence[float] | None = None
    ignore_index: int = 255

    def __call__(self, logits: Tensor, labels: Tensor, step: int = 0) -> Tensor:
        costs = CrossEntropy(ignore_index=self.ignore_index).pixels(logits, labels)
        focused = (-torch.expm1(-costs)).clamp(min=1e-12) ** self.gamma * costs  # 1 - p, exact where p is near 1
        if self.class_weights is not None:
            weights = logits.new_tensor([*self.class_weights, 0.0])
            focused = focused * weights[labels.where(labels != self.ignore_index, len(self.class_weights))]
        return _mean_over(focused, labels != self.ignore_index)


@dataclass(frozen=True)
class Dice:
    """1 - 2 |P and T| / (|P| + |T|), P and T as soft sets of the batch's pixels; the mean over the classes in T.

    Source: Milletari, Navab, Ahmadi, arXiv 1606.04797, section 3; without its squares.
    """

    ignore_index: int = 255

    def __call__(self, logits: Tensor, labels: Tensor, step: int = 0) -> Tensor:
        probabilities, truth = _valid(logits, labels, self.ignore_index)
        overlap, total = (probabilities * truth).sum(0), (probabilities + truth).sum(0)
        present = truth.sum(0) > 0
        costs = 1 - 2 * overlap / total.clamp(min=torch.finfo(total.dtype).tiny)
        return _local_mean(costs, present)


@dataclass(frozen=True)
class Lovasz:
    """The Lovász extension of 1 - IoU, on soft-max probabilities; the mean over the classes in the batch's labels.

    Source: Berman, Rannen Triki, Blaschko, arXiv 1705.08790, equations 9 and 11, algorithm 1.
    """

    ignore_index: int = 255

    def __call__(self, logits: Tensor, labels: Tensor, step: int = 0) -> Tensor:
        probabilities, truth = _valid(logits, labels, self.ignore_index)
        errors, order = (probabilities - truth).abs().sort(0, descending=True)
        hits = truth.gather(0, order)
        total = hits.sum(0)
        jaccard = 1 - (total - hits.cumsum(0)) / (total + (1 - hits).cumsum(0)).clamp(min=1)
        rises = torch.diff(jaccard, dim=0, prepend=jaccard.new_zeros(1, jaccard.shape[1]))
        return _local_mean((errors * rises).sum(0), total > 0)


@dataclass(frozen=True)
class Weighted:
    """A sum of losses, each times its weight."""

    terms: Sequence[tuple[Loss, float]]

    def __call__(self, logits: Tensor, labels: Tensor, step: int = 0) -> Tensor:
        return torch.stack([loss(logits, labels, step) * weight for loss, weight in self.terms]).sum()


LOSSES: Mapping[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "hard_pixels": HardPixels,
    "focal": Focal,
    "dice": Dice,
    "lovasz": Lovasz,
}
"""What recipes call them."""


def supervise(outputs: Sequence[tuple[Tensor, float]], labels: Tensor, loss: Loss, *, step: int = 0) -> Tensor:
    """The loss of all that `model.training_outputs` gave, by weight: the output, the auxiliary heads, the scales."""
    whole = ((logits.float() if logits.dtype.itemsize < 4 else logits, weight) for logits, weight in outputs)
    return torch.stack([loss(logits, labels, step) * weight for logits, weight in whole]).sum()


def every(stride: int, tensor: Tensor, *, corners: bool) -> Tensor:
    """Every `stride`-th row and column, for a loss on labels shrunk to the network's output.

    Begun at the first pixel where corners are aligned, as in Caffe, else at the middle of a cell.
    Source: DeepLab v1 section 4.1, v2; against which v3 (section 4.1, table 8) sets logits at full size.
    """
    start = 0 if corners else min(stride // 2, tensor.shape[-1] - 1, tensor.shape[-2] - 1)
    return tensor[..., start::stride, start::stride]


def _valid(logits: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Probabilities and one-hot truth of the pixels that count.

    Shape: (N, K, H, W) and (N, H, W) -> two (P, K).
    """
    valid = labels != ignore_index
    probabilities = logits.softmax(1).movedim(1, -1)[valid]
    return probabilities, F.one_hot(labels[valid], logits.shape[1]).to(probabilities.dtype)


def _mean_over(costs: Tensor, counted: Tensor) -> Tensor:
    """The sum of the costs by the number of those that count, in all processes; 0 where there are none."""
    count = counted.sum()
    if _processes() > 1:
        torch.distributed.all_reduce(count)
    return costs.sum() * _processes() / count.clamp(min=1)


def _local_mean(costs: Tensor, counted: Tensor) -> Tensor:
    """The mean of the costs that count, in this process; 0 where there are none."""
    return (costs * counted).sum() / counted.sum().clamp(min=1)


def _processes() -> int:
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1
