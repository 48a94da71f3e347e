"""Mean-field inference in torch: `dense_crf` on a GPU, and the filters that `CRFRNN` unrolls.

`numba_backend/mean_field.py` has the same classes and methods, and the equations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from atrous.crf.kernels import MIN_PROBABILITY, Normalization
from atrous.crf.torch_backend.lattice import FilterLattice, NumbaLattice, TorchLattice, permutohedral_filter
from atrous.crf.validation import Array


@dataclass(frozen=True)
class NormalizedFilter:
    """The filter of a normalized kernel over a batch of images; calling it filters (batch, points, channels)."""

    lattice: FilterLattice
    before: Tensor  # (batch, points, 1)
    after: Tensor

    @classmethod
    def build(
        cls, features: Tensor, normalization: Normalization, backend: Literal["numba", "torch"] = "torch"
    ) -> NormalizedFilter:
        """Build the lattices of features (batch, points, d)."""
        lattice = TorchLattice(features) if backend == "torch" else NumbaLattice(features)
        ones = torch.ones_like(features[:, :, :1])
        return cls(lattice, *normalization.factors(lattice.filter(ones)))

    def __call__(self, values: Tensor) -> Tensor:
        filtered = permutohedral_filter(values * self.before.to(values.dtype), self.lattice)
        return filtered * self.after.to(values.dtype)


def apply_compatibility(filtered: Tensor, compatibility: Tensor) -> Tensor:
    """Turn filtered marginals (..., classes) into their summand of the logits.

    `compatibility`: as `PairwiseKernel.scaled_compatibility`: () or (classes,) scales, (classes, classes) with the
    sending class first mixes the classes.
    """
    return filtered @ compatibility if compatibility.ndim == 2 else filtered * compatibility


@dataclass(frozen=True)
class Unary:
    """Unaries of one image, (classes, pixels): probabilities, or energies when `energies` is set.

    `kept` (classes,), bool, are the classes that exchange messages. The others, pruned, form one class that neither
    sends nor receives.
    """

    values: Tensor
    energies: bool
    kept: Tensor

    @classmethod
    def build(cls, values: Array, *, energies: bool = False, prune: float = 0.0) -> Unary:
        """Prune the classes whose probability is nowhere above `prune`; one class is always kept."""
        tensor = torch.from_numpy(values)
        kept = tensor.amax(1) > prune if prune else torch.ones(len(tensor), dtype=torch.bool)
        kept[tensor[:, 0].argmax()] |= ~kept.any()
        return cls(tensor, energies, kept)


class MeanField:
    """Mean-field inference in the CRF of one image, whose lattices are built once.

    Shape: `features[k]`: (points, d_k); `pixels`: (points,), the pixel of each point.
    """

    def __init__(
        self, features: Sequence[Array], normalizations: Sequence[Normalization], pixels: Array, device: Any = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.pixels = torch.from_numpy(pixels).long()
        self.filters = [
            NormalizedFilter.build(torch.from_numpy(each).to(self.device)[None], kind)
            for each, kind in zip(features, normalizations, strict=True)
        ]

    def infer(
        self,
        unary: Unary,
        compatibilities: Sequence[Array],
        iterations: int,
        *,
        tolerance: float = 0.0,
        divergence_callback: Callable[[int, float], None] | None = None,
    ) -> MeanFieldState:
        """Run `iterations` updates from softmax(-U), fewer once every marginal changes by less than `tolerance`.

        `compatibilities[k]`: `PairwiseKernel.scaled_compatibility` of kernel k. `divergence_callback(step, value)` is
        called with the KL divergence, up to a constant, before each step and after the last.
        """
        state = MeanFieldState(self, unary, compatibilities)
        step = 0
        for step in range(1, iterations + 1):
            previous = state.marginals
            divergence = state.step(with_divergence=divergence_callback is not None)
            if divergence_callback is not None:
                divergence_callback(step - 1, divergence)
            if tolerance and bool((state.marginals - previous).abs().max() < tolerance):
                break
        if divergence_callback is not None:
            divergence_callback(step, state.kl_divergence())
        return state


class MeanFieldState:
    """Marginals of one inference, (points, classes); `step` replaces them. Pruned classes share the last column."""

    def __init__(self, mean_field: MeanField, unary: Unary, compatibilities: Sequence[Array]) -> None:
        self.mean_field, device = mean_field, mean_field.device
        values, kept = unary.values[:, mean_field.pixels].to(device), unary.kept.to(device)
        self._kept = kept
        self._pruned = torch.empty(0, values.shape[1], device=device)
        if unary.energies:
            logits = -values
        else:
            values = values.clamp_min(MIN_PROBABILITY)
            self._pruned = values[~kept]
            logits = torch.cat([values[kept], self._pruned.sum(0, keepdim=True)] if len(self._pruned) else [values])
            logits = logits.log()
        self._compatibilities = [
            self._of_kept_classes(torch.as_tensor(each).float().to(device)) for each in compatibilities
        ]
        self.logits = logits.T[None]
        self.marginals = self.logits.softmax(-1)

    def _of_kept_classes(self, compatibility: Tensor) -> Tensor:
        """Select the compatibility of the kept classes, followed by zero for the column of the pruned ones."""
        if not len(self._pruned):
            return compatibility
        scale = compatibility.new_zeros(int(self._kept.sum()) + 1)
        scale[:-1] = compatibility if compatibility.ndim == 0 else compatibility[self._kept]
        return scale

    def _updated_logits(self) -> Tensor:
        pairs = zip(self.mean_field.filters, self._compatibilities, strict=True)
        messages = (apply_compatibility(filter_(self.marginals), each) for filter_, each in pairs)
        return self.logits + sum(messages, torch.zeros_like(self.marginals))

    def _divergence(self, logits: Tensor) -> float:
        marginals = self.marginals.double()
        return float((marginals * (marginals.clamp_min(1e-20).log() - logits.double())).sum())

    def step(self, *, with_divergence: bool = False) -> float:
        """Update the marginals; returns their divergence before the update, or zero."""
        logits = self._updated_logits()
        divergence = self._divergence(logits) if with_divergence else 0.0
        self.marginals = logits.softmax(-1)
        return divergence

    def kl_divergence(self) -> float:
        """Compute the KL divergence of the marginals up to a constant: sum of q (log q + U + messages)."""
        return self._divergence(self._updated_logits())

    def _probabilities(self) -> Tensor:
        """Return the marginals of all classes, (classes, points)."""
        marginals = self.marginals[0].T
        if not len(self._pruned):
            return marginals
        probabilities = marginals.new_empty(len(self._kept), marginals.shape[1])
        probabilities[self._kept] = marginals[:-1]
        probabilities[~self._kept] = self._pruned / self._pruned.sum(0, keepdim=True) * marginals[-1]
        return probabilities

    def write_probabilities(self, out: Array) -> Array:
        """Write the marginals to `out` (classes, all pixels), whose other pixels stay as they are."""
        out[:, self.mean_field.pixels.numpy()] = self._probabilities().cpu().numpy()
        return out

    def write_labels(self, out: Array) -> Array:
        """Write the most probable class of each pixel to `out` (all pixels,), whose other pixels stay as they are."""
        out[self.mean_field.pixels.numpy()] = self._probabilities().argmax(0).cpu().numpy()
        return out
