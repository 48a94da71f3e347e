"""Mean-field inference in torch: what `CRFRNN` unrolls, and what `dense_crf` runs on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from atrous.crf.numba_backend.lattice import Normalization
from atrous.crf.torch_backend.lattice import FilterLattice, NumbaLattice, TorchLattice, permutohedral_filter

FLOOR = 1e-5  # as in `engine`


@dataclass(frozen=True)
class TorchKernel:
    """A normalized kernel over a batch of images; calling it filters (batch, points, channels)."""

    lattice: FilterLattice
    before: Tensor  # (batch, points, 1)
    after: Tensor

    @classmethod
    def of(
        cls, features: Tensor, normalization: Normalization, backend: Literal["numba", "torch"] = "torch"
    ) -> TorchKernel:
        """Build the lattices of features (batch, points, d)."""
        lattice = TorchLattice(features) if backend == "torch" else NumbaLattice(features)
        ones = torch.ones_like(features[:, :, :1])
        return cls(lattice, *normalization.factors(lattice.apply(ones, False)))

    def __call__(self, values: Tensor) -> Tensor:
        filtered = permutohedral_filter(values * self.before.to(values.dtype), self.lattice)
        return filtered * self.after.to(values.dtype)


def coupled(filtered: Tensor, coupling: Tensor) -> Tensor:
    """What filtered marginals (..., classes) add to the logits: scaled, or mixed by a matrix with the sender first."""
    return filtered @ coupling if coupling.ndim == 2 else filtered * coupling


def infer(
    logits: Tensor,
    kernels: Sequence[TorchKernel],
    couplings: Sequence[Tensor],
    iterations: int,
    *,
    tolerance: float = 0.0,
    divergence: Callable[[int, float], None] | None = None,
) -> Tensor:
    """Marginals (batch, points, classes) after `iterations` updates; the arguments are those of `engine.MeanField`."""
    marginals, step = logits.softmax(-1), 0
    for step in range(1, iterations + 1):
        present = logits + _messages(marginals, kernels, couplings)
        if divergence is not None:
            divergence(step - 1, _divergence(marginals, present))
        previous, marginals = marginals, present.softmax(-1)
        if tolerance and bool((marginals - previous).abs().max() < tolerance):
            break
    if divergence is not None:
        divergence(step, _divergence(marginals, logits + _messages(marginals, kernels, couplings)))
    return marginals


def _messages(marginals: Tensor, kernels: Sequence[TorchKernel], couplings: Sequence[Tensor]) -> Tensor:
    pairs = zip(kernels, couplings, strict=True)
    return sum((coupled(kernel(marginals), coupling) for kernel, coupling in pairs), torch.zeros_like(marginals))


def _divergence(marginals: Tensor, logits: Tensor) -> float:
    return float((marginals.double() * (marginals.double().clamp_min(1e-20).log() - logits.double())).sum())


def refine(
    maps: Tensor,
    energies: bool,
    features: Sequence[Tensor],
    normalizations: Sequence[Normalization],
    couplings: Sequence[Tensor],
    iterations: int,
    *,
    prune: float = 0.0,
    tolerance: float = 0.0,
    divergence: Callable[[int, float], None] | None = None,
) -> Tensor:
    """Marginals (classes, points) of one image from its maps (classes, points), as `dense_crf` defines them.

    *Shape:* features (points, d) each. Pruned classes form one class that neither sends nor receives.
    """
    kernels = [TorchKernel.of(each[None], kind) for each, kind in zip(features, normalizations, strict=True)]
    if energies:
        return infer(-maps.T[None], kernels, couplings, iterations, tolerance=tolerance, divergence=divergence)[0].T
    clipped = maps.clamp_min(FLOOR)
    kept = maps.amax(1) > prune if prune else torch.ones(len(maps), dtype=torch.bool, device=maps.device)
    kept[maps[:, 0].argmax()] |= ~kept.any()
    rest = clipped[~kept].sum(0, keepdim=True)
    lanes = torch.cat([clipped[kept], rest]) if len(rest) and not kept.all() else clipped
    sent = [_for_lanes(coupling, kept, len(lanes)) for coupling in couplings]
    marginals = infer(lanes.log().T[None], kernels, sent, iterations, tolerance=tolerance, divergence=divergence)[0].T
    if kept.all():
        return marginals
    out = torch.empty_like(clipped)
    out[kept] = marginals[:-1]
    out[~kept] = clipped[~kept] / rest * marginals[-1]
    return out


def _for_lanes(coupling: Tensor, kept: Tensor, lanes: int) -> Tensor:
    """A coupling for the kept classes, with zero for the one that stands for the pruned."""
    if bool(kept.all()):
        return coupling
    row = torch.zeros(lanes, dtype=coupling.dtype, device=coupling.device)
    row[:-1] = coupling if coupling.ndim == 0 else coupling[kept]
    return row
