"""The permutohedral lattice in torch: batched, on any device, differentiable in the values filtered.

`permutohedral_filter(values, lattice)` is K v, and its gradient is K^T g: the same lattice with the axes of the blur in
reverse order. `TorchLattice` is plain torch, the reference and the implementation for GPUs; `NumbaLattice` has the same
method over the compiled functions of `numba_backend`, which on a CPU are many times faster.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from atrous.crf.lattice_geometry import embedding_scale, key_steps, key_strides, slice_factor
from atrous.errors import AtrousError


class FilterLattice(Protocol):
    """The interface of a lattice for `permutohedral_filter`."""

    def filter(self, values: Tensor, *, reverse: bool = False) -> Tensor:
        """Compute K v, or K^T v with `reverse`; (batch, points, channels)."""
        ...


def _embed(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the simplex around each feature (points, d).

    Returns its 0-colored corner and the rank of each coordinate in descending order, (points, d + 1) each, and the
    barycentric weights (points, d + 1).

    Source: Adams et al. 2010, p. 5, 6 and 10; the float32 operations in the order of `lattice_jit._embed`.
    """
    points, d = features.shape
    components = features * torch.from_numpy(embedding_scale(d)).to(features)
    total = torch.zeros_like(features[:, 0])
    elevated = [total] * (d + 1)
    for j in range(d, 0, -1):
        elevated[j] = total - j * components[:, j - 1]
        total = total + components[:, j - 1]
    elevated[0] = total
    y = torch.stack(elevated, 1)
    color = torch.round(y * (torch.ones((), device=y.device) / (d + 1)))
    corner, excess = color * (d + 1), color.sum(1, keepdim=True)
    rest = y - corner
    below = rest[:, :, None] < rest[:, None, :]
    lower = torch.ones(d + 1, d + 1, dtype=torch.bool, device=y.device).triu(1)  # [i, j] with i < j
    rank = (below & lower).sum(2) + (~below & lower).sum(1) + excess.long()
    shift = (d + 1) * ((rank < 0).long() - (rank > d).long())
    rank, corner, rest = rank + shift, corner + shift, rest - shift
    share = rest * (torch.ones((), device=y.device) / (d + 1))
    barycentric = torch.zeros(points, d + 2, device=y.device)
    barycentric.scatter_add_(1, d - rank, share).scatter_add_(1, d + 1 - rank, -share)
    barycentric[:, 0] += 1 + barycentric[:, d + 1]
    return corner.long(), rank, barycentric[:, : d + 1]


class TorchLattice:
    """The lattices of a batch of point sets, in one set of tensors.

    Shape: features (batch, points, d), in units of the standard deviation.
    Raises: `AtrousError` when features are not finite or not of that shape.
    """

    def __init__(self, features: Tensor) -> None:
        if features.ndim != 3 or 0 in features.shape:
            raise AtrousError(
                f"features must have shape (batch, points, d), each at least 1, found {tuple(features.shape)}."
            )
        flat = features.detach().float().flatten(0, 1)
        if not bool(torch.isfinite(flat).all()):
            raise AtrousError("features hold NaN or infinity; expected finite numbers: check them and their sigmas.")
        batch, points, self.d = features.shape
        strides = key_strides(flat.amin(0).cpu().numpy(), flat.amax(0).cpu().numpy())
        corner, rank, self.barycentric = _embed(flat)
        steps = torch.from_numpy(key_steps(strides)).to(flat.device)
        axis_of = rank.argsort(1).flip(1)  # the axis along which corner r + 1 follows corner r
        keys = (corner * torch.from_numpy(strides).to(flat.device)).sum(1, keepdim=True)
        keys = torch.cat([keys, keys + steps[axis_of[:, :-1]].cumsum(1)], 1)
        image = torch.arange(batch, device=flat.device).repeat_interleave(points)[:, None]
        factor = batch | 1  # odd, so that nothing is lost where the product wraps around
        vertices, self.corner_rows = torch.unique(keys * factor + image, return_inverse=True)
        self.num_vertices = len(vertices)
        both = ([self._find_rows(vertices, vertices + step * factor * sign) for sign in (-1, 1)] for step in steps)
        self.neighbors = torch.stack([torch.stack(rows) for rows in both])  # (axes, 2, vertices)

    def _find_rows(self, vertices: Tensor, keys: Tensor) -> Tensor:
        """Find the row of each key, or the row of zeros after the last."""
        row = torch.searchsorted(vertices, keys).clamp_(max=self.num_vertices - 1)
        return torch.where(vertices[row] == keys, row, self.num_vertices)

    def filter(self, values: Tensor, *, reverse: bool = False) -> Tensor:
        """Compute K v, or K^T v with `reverse`; (batch, points, channels)."""
        flat, barycentric = values.flatten(0, 1), self.barycentric.to(values.dtype)
        rows = values.new_zeros(self.num_vertices + 1, values.shape[2])
        for corner in range(self.d + 1):
            rows.index_add_(0, self.corner_rows[:, corner], barycentric[:, corner, None] * flat)
        for previous, following in self.neighbors.flip(0) if reverse else self.neighbors:
            rows[:-1] += 0.5 * (rows[previous] + rows[following])
        corners = (barycentric[:, c, None] * rows[self.corner_rows[:, c]] for c in range(self.d + 1))
        return (sum(corners) * slice_factor(self.d)).view_as(values)  # type: ignore[union-attr]


class NumbaLattice:
    """The same lattices, built and applied by `numba_backend`: CPU, float32."""

    def __init__(self, features: Tensor) -> None:
        from atrous.crf.numba_backend.lattice import Lattice  # here, for it loads numba

        self.lattices = [Lattice.build(each) for each in features.detach().cpu().numpy()]

    def filter(self, values: Tensor, *, reverse: bool = False) -> Tensor:
        """Compute K v, or K^T v with `reverse`; (batch, points, channels)."""
        arrays = values.detach().cpu().float().numpy()
        results = [lattice.filter(each, reverse=reverse) for lattice, each in zip(self.lattices, arrays, strict=True)]
        return torch.from_numpy(np.stack(results)).to(values)


class _Filter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, lattice: FilterLattice, reverse: bool) -> Tensor:
        ctx.lattice, ctx.reverse = lattice, reverse
        return lattice.filter(values, reverse=reverse)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return permutohedral_filter(gradients[0], ctx.lattice, reverse=not ctx.reverse), None, None


def permutohedral_filter(values: Tensor, lattice: FilterLattice, *, reverse: bool = False) -> Tensor:
    """Compute K v, not normalized, or K^T v with `reverse`; differentiable in `values` any number of times.

    Shape: values (batch, points, channels); returns the same.
    """
    return _Filter.apply(values, lattice, reverse)
