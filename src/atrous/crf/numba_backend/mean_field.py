"""Mean-field inference on the CPU: one lattice for all kernels of an image, any number of inferences on it.

    E(x) = sum_i U_i(x_i) + sum_k sum_{i<j} mu_k(x_i, x_j) K_k(f_i, f_j)
    Q <- softmax(-U - sum_k mu_k (K_k Q))

`torch_backend/mean_field.py` has the same classes and methods.

Source: Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011,
equation 4 and algorithm 1. As in their code, the term j = i is kept in K.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from atrous.crf.kernels import MIN_PROBABILITY, Normalization
from atrous.crf.lattice_geometry import slice_factor
from atrous.crf.numba_backend import filter_jit, mean_field_jit
from atrous.crf.numba_backend.lattice import Lattice
from atrous.crf.numba_backend.simd import lanes_of, panel_width
from atrous.crf.numba_backend.threads import chunk_count, run_parallel
from atrous.crf.validation import Array

Float32s = npt.NDArray[np.float32]

_NO_CLASSES = np.empty(0, np.int64)


@dataclass(frozen=True)
class Unary:
    """Unaries of one image, (classes, pixels): probabilities, or energies when `energies` is set.

    `kept` are the classes that exchange messages. The `pruned` ones form one class that neither sends nor receives.
    """

    values: Float32s
    energies: bool
    kept: npt.NDArray[np.int64]
    pruned: npt.NDArray[np.int64]

    @classmethod
    def build(cls, values: Array, *, energies: bool = False, prune: float = 0.0) -> Unary:
        """Prune the classes whose probability is nowhere above `prune`; one class is always kept."""
        values = np.require(values, np.float32, ["C", "W"])  # numba would compile again for read-only arrays
        classes = np.arange(len(values))
        if not prune:
            return cls(values, energies, classes, _NO_CLASSES)
        kept = values.max(1) > prune
        kept[values[:, 0].argmax()] |= not kept.any()
        return cls(values, energies, classes[kept], classes[~kept])


class MeanField:
    """Mean-field inference in the CRF of one image, whose lattices are built once.

    Shape: `features[k]`: (points, d_k); `pixels`: (points,), the pixel of each point.
    """

    def __init__(
        self, features: Sequence[Array], normalizations: Sequence[Normalization], pixels: npt.NDArray[np.int32]
    ) -> None:
        self.pixels = pixels
        self.lattice = Lattice.build(*features) if features else Lattice.empty(len(pixels))
        self.splat_weights, self.slice_weights = self._normalized_weights(normalizations)

    def _normalized_weights(self, normalizations: Sequence[Normalization]) -> tuple[Float32s, Float32s]:
        """Multiply the normalization into the barycentric weights for splat and slice; one array if they are equal."""
        lattice = self.lattice
        if not lattice.num_kernels:
            return lattice.barycentric, lattice.barycentric
        factors = [kind.factors(each) for kind, each in zip(normalizations, lattice.row_sums(), strict=True)]
        before, after = (np.stack([pair[side] for pair in factors]).astype(np.float32) for side in (0, 1))
        splat_weights = slice_weights = lattice.barycentric
        if {Normalization.BEFORE, Normalization.AFTER} & set(normalizations):
            slice_weights = np.empty_like(splat_weights)
            self.run(1, filter_jit.scale_barycentric, lattice.barycentric, lattice.columns, after, slice_weights)
        self.run(1, filter_jit.scale_barycentric, lattice.barycentric, lattice.columns, before, splat_weights)
        return splat_weights, slice_weights

    def run(self, stages: int, function: Callable[..., None], *args: object) -> None:
        """Run a compiled function over the pixels in parallel."""
        run_parallel(len(self.pixels), stages, function, *args)

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
        if divergence_callback is None and not tolerance:
            state.step(iterations)
            return state
        step = 0
        for step in range(1, iterations + 1):
            previous = state.marginals.copy() if tolerance else None
            (divergence,) = state.step(with_divergence=divergence_callback is not None)
            if divergence_callback is not None:
                divergence_callback(step - 1, divergence)
            if previous is not None and np.abs(np.subtract(previous, state.marginals, out=previous)).max() < tolerance:
                break
        if divergence_callback is not None:
            divergence_callback(step, state.kl_divergence())
        return state


class MeanFieldState:
    """Marginals of one inference, in panels of up to 32 classes; `step` updates them in place."""

    def __init__(self, mean_field: MeanField, unary: Unary, compatibilities: Sequence[Array]) -> None:
        self.mean_field, self.unary = mean_field, unary
        count, width = panel_width(len(unary.kept) + bool(len(unary.pruned)))
        self._lanes = lanes_of(width)
        self._class_weights, self._source_index, self._matrices = self._messages(compatibilities, count, width)
        self.logits = np.empty((count, len(mean_field.pixels), width), np.float32)
        self._panels = np.empty((1 + len(self._matrices), *self.logits.shape), np.float32)
        self._vertex_values = mean_field.lattice.empty_vertex_values(width)
        values, pixels = unary.values, mean_field.pixels
        if unary.energies:
            mean_field.run(
                1, mean_field_jit.initialize_from_energies, values, pixels, self.logits, self.marginals, self._lanes
            )
        else:
            mean_field.run(
                1, mean_field_jit.initialize_from_probabilities, values, pixels,
                unary.kept, unary.pruned, np.float32(MIN_PROBABILITY), self.logits, self.marginals, self._lanes,
            )  # fmt: skip

    @property
    def marginals(self) -> Float32s:
        """The marginals, (panels, points, lanes)."""
        return self._panels[0]

    def _messages(
        self, compatibilities: Sequence[Array], panels: int, lanes: int
    ) -> tuple[Float32s, npt.NDArray[np.int64], Float32s]:
        """Arrange the compatibilities for the compiled update.

        Returns the weight of each class in each kernel's messages, (kernels, panels, lanes); the index of the panels
        that each kernel filters, 0 for the marginals themselves; and the matrices that mix the classes of the others.
        """
        width, kept = panels * lanes, self.unary.kept
        class_weights = np.zeros((len(compatibilities), width), np.float32)
        source_index = np.zeros(len(compatibilities), np.int64)
        matrices = []
        for kernel, compatibility in enumerate(compatibilities):
            factor = slice_factor(self.mean_field.lattice.dimension(kernel))
            compatibility = np.asarray(compatibility, np.float64) * factor
            if compatibility.ndim < 2:
                class_weights[kernel, : len(kept)] = compatibility if compatibility.ndim == 0 else compatibility[kept]
                continue
            matrix = np.zeros((width, width), np.float32)
            matrix[: len(kept), : len(kept)] = compatibility[np.ix_(kept, kept)]
            matrices.append(matrix)
            class_weights[kernel], source_index[kernel] = 1, len(matrices)
        mixing = np.stack(matrices) if matrices else np.empty((0, width, width), np.float32)
        return class_weights.reshape(-1, panels, lanes), source_index, mixing.reshape(-1, width, panels, lanes)

    def step(self, steps: int = 1, *, with_divergence: bool = False) -> list[float]:
        """Update the marginals `steps` times; returns their divergence before each update, or zeros."""
        field, lattice = self.mean_field, self.mean_field.lattice
        summands = np.zeros((steps, chunk_count(len(field.pixels)) if with_divergence else 0))
        field.run(
            steps * (len(self._matrices) + len(self.logits) * lattice.stages), mean_field_jit.update,
            steps, lattice.arrays, field.splat_weights, field.slice_weights, self._class_weights, self._source_index,
            self._matrices, self.logits, self._panels, self._vertex_values, self._lanes, summands,
        )  # fmt: skip
        return [float(value) for value in summands.sum(1)]

    def kl_divergence(self) -> float:
        """Compute the KL divergence of the marginals up to a constant: sum of q (log q + U + messages), as pydensecrf.

        This takes a step, which is undone.
        """
        marginals = self.marginals.copy()
        (divergence,) = self.step(with_divergence=True)
        self.marginals[:] = marginals
        return divergence

    def set_marginals(self, marginals: Array) -> None:
        """Replace the marginals, (classes, pixels); only for a unary without pruned classes."""
        width = self.marginals.shape[2]
        for k, row in enumerate(np.asarray(marginals, np.float32)):
            self.marginals[k // width, :, k % width] = row[self.mean_field.pixels]

    def write_probabilities(self, out: Float32s) -> Float32s:
        """Write the marginals to `out` (classes, all pixels), whose other pixels stay as they are."""
        self._write(mean_field_jit.write_marginals, out)
        return out

    def write_labels(self, out: Array) -> Array:
        """Write the most probable class of each pixel to `out` (all pixels,), whose other pixels stay as they are."""
        self._write(mean_field_jit.write_labels, out)
        return out

    def _write(self, function: Callable[..., None], out: Array) -> None:
        unary, field = self.unary, self.mean_field
        field.run(
            1, function, self.marginals, unary.values, field.pixels, unary.kept, unary.pruned,
            np.float32(MIN_PROBABILITY), self._lanes, out,
        )  # fmt: skip
