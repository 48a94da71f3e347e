"""Segmentation losses: functions of logits and labels that skip pixels of the ignore index.

All are means over valid pixels (or classes), so that a crop that is half padding counts as much as a full one. In a
`torch.distributed` group the mean is over the pixels of all processes: the gradients, which are averaged over
processes, then equal those of one process with all the images. A batch without valid pixels has loss 0 and gradient 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from atrous.errors import AtrousError


class Loss(Protocol):
    """Interface of all losses."""

    def __call__(self, logits: Tensor, labels: Tensor, step: int = 0) -> Tensor:
        """Compute the loss; `step` counts optimizer steps from 0, for losses that change during training.

        Shape: (N, K, H, W) float and (N, H, W) int64 -> ().
        """


@dataclass(frozen=True)
class CrossEntropy:
    """Softmax cross-entropy.

    `class_weights` multiply the loss of each class's pixels; the mean is over the number of valid pixels, not over the
    sum of their weights, as in Caffe (torch divides by the weights, which cancels much of their effect in an image of
    few classes). `reduction="sum"` sums over pixels: FCN's "unnormalized" loss. `label_smoothing` distributes that
    share of the target evenly over all classes. `weights` are added to the class weights pixel by pixel (U-Net's weight
    map, equation 2).

    Source: FCN's released solvers (sum), SegNet section 3.1 (weights), Szegedy et al., arXiv 1512.00567, section 7.
    """

    class_weights: Sequence[float] | None = None
    label_smoothing: float = 0.0
    reduction: Literal["mean", "sum"] = "mean"
    ignore_index: int = 255

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise AtrousError(f"label_smoothing {self.label_smoothing}: expected 0 <= label_smoothing < 1.")
        if self.reduction not in ("mean", "sum"):
            raise AtrousError(f"reduction '{self.reduction}': expected 'mean' or 'sum'.")

    def __call__(self, logits: Tensor, labels: Tensor, step: int = 0, weights: Tensor | None = None) -> Tensor:
        losses = self.per_pixel(logits, labels)
        if weights is not None:
            plain = (
                losses if self.class_weights is None else replace(self, class_weights=None).per_pixel(logits, labels)
            )
            losses = losses + weights * plain
        if self.reduction == "sum":
            return losses.sum() * _world_size()
        return _global_mean(losses, labels != self.ignore_index)

    def per_pixel(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of each pixel, 0 for ignored pixels.

        Shape: (N, K, H, W) and (N, H, W) -> (N, H, W).
        """
        check_class_weights(self, logits.shape[1])
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
class OHEMCrossEntropy:
    """Online hard example mining: cross-entropy of the pixels with the largest loss.

    `fraction` of all pixels are kept, counting ignored ones; during the first `warmup_steps` steps the share falls
    linearly from 1 to `fraction`. The mean is over the kept pixels whose loss is not 0.

    Source: `add_softmax_cross_entropy_loss_for_each_scale` of TensorFlow DeepLab (`top_k_percent_pixels`,
    `hard_example_mining_step`).
    """

    fraction: float = 0.25
    warmup_steps: int = 0
    class_weights: Sequence[float] | None = None
    ignore_index: int = 255

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise AtrousError(f"fraction {self.fraction}: expected 0 < fraction <= 1.")

    def __call__(self, logits: Tensor, labels: Tensor, step: int = 0) -> Tensor:
        cross_entropy = CrossEntropy(self.class_weights, ignore_index=self.ignore_index)
        losses = cross_entropy.per_pixel(logits, labels).flatten()
        hardest = losses.topk(self.count(losses.numel(), step), sorted=False).values
        return _global_mean(hardest, hardest != 0)

    def count(self, pixels: int, step: int) -> int:
        """Count the pixels, out of `pixels`, that are kept at a step."""
        progress = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        return max(1, int((progress * self.fraction + (1 - progress)) * pixels))


@dataclass(frozen=True)
class Focal:
    """Focal loss: cross-entropy times (1 - p)^gamma, with p the probability of the true class; easy pixels count less.

    Source: Lin et al., arXiv 1708.02002, equation 5; `class_weights` are its alpha.
    """

    gamma: float = 2.0
    class_weights: Sequence[float] | None = None
    ignore_index: int = 255

    def __call__(self, logits: Tensor, labels: Tensor, step: int = 0) -> Tensor:
        check_class_weights(self, logits.shape[1])
        losses = CrossEntropy(ignore_index=self.ignore_index).per_pixel(logits, labels)
        focused = (-torch.expm1(-losses)).clamp(min=1e-12) ** self.gamma * losses  # 1 - p, exact where p is near 1
        if self.class_weights is not None:
            weights = logits.new_tensor([*self.class_weights, 0.0])
            focused = focused * weights[labels.where(labels != self.ignore_index, len(self.class_weights))]
        return _global_mean(focused, labels != self.ignore_index)


@dataclass(frozen=True)
class Dice:
    """Soft Dice loss, 1 - 2 |P and T| / (|P| + |T|), over the pixels of the batch; the mean over classes present in T.

    Source: Milletari, Navab, Ahmadi, arXiv 1606.04797, section 3; without its squares.
    """

    ignore_index: int = 255

    def __call__(self, logits: Tensor, labels: Tensor, step: int = 0) -> Tensor:
        probabilities, truth = _valid(logits, labels, self.ignore_index)
        overlap, total = (probabilities * truth).sum(0), (probabilities + truth).sum(0)
        present = truth.sum(0) > 0
        losses = 1 - 2 * overlap / total.clamp(min=torch.finfo(total.dtype).tiny)
        return _local_mean(losses, present)


@dataclass(frozen=True)
class Lovasz:
    """Lovász-softmax loss: the Lovász extension of 1 - IoU; the mean over the classes present in the batch's labels.

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
class WeightedSum:
    """Weighted sum of losses; a weight map applies to cross-entropy alone.

    Shape: as `Loss`; `weights` (N, H, W).
    """

    terms: Sequence[tuple[Loss, float]]

    def __call__(self, logits: Tensor, labels: Tensor, step: int = 0, weights: Tensor | None = None) -> Tensor:
        losses = [
            loss(logits, labels, step, weights) if isinstance(loss, CrossEntropy) else loss(logits, labels, step)
            for loss, _ in self.terms
        ]
        return torch.stack([loss * weight for loss, (_, weight) in zip(losses, self.terms, strict=True)]).sum()


def check_class_weights(loss: Loss, num_classes: int) -> None:
    """Check that a loss has one weight for each class, if it has class weights; of a sum, check all terms.

    Raises: `AtrousError` for another number of weights.
    """
    for term in [term for term, _ in loss.terms] if isinstance(loss, WeightedSum) else [loss]:
        weights = getattr(term, "class_weights", None)
        if weights is not None and len(weights) != num_classes:
            raise AtrousError(f"{len(weights)} class weights for {num_classes} classes: give one per class.")


def _valid(logits: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Select the probabilities and one-hot labels of the valid pixels.

    Shape: (N, K, H, W) and (N, H, W) -> two (P, K).
    """
    valid = labels != ignore_index
    probabilities = logits.softmax(1).movedim(1, -1)[valid]
    return probabilities, F.one_hot(labels[valid], logits.shape[1]).to(probabilities.dtype)


def _global_mean(losses: Tensor, counted: Tensor) -> Tensor:
    """Divide the sum of losses by the number of counted pixels over all processes; 0 if there are none."""
    count = counted.sum()
    if _world_size() > 1:
        torch.distributed.all_reduce(count)
    return losses.sum() * _world_size() / count.clamp(min=1)


def _local_mean(losses: Tensor, counted: Tensor) -> Tensor:
    """Average the counted losses of this process; 0 if there are none."""
    return (losses * counted).sum() / counted.sum().clamp(min=1)


def _world_size() -> int:
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1
