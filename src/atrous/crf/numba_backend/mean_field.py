"""Mean-field inference on the CPU: one lattice for all kernels of an image, any number of inferences on it.

    E(x) = sum_i U_i(x_i) + sum_k sum_{i<j} mu_k(x_i, x_j) K_k(f_i, f_j)
    Q <- softmax(-U - sum_k mu_k (K_k Q))

*Source:* Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011,
equation 4 and algorithm 1. As in their code, the term j = i is kept in K.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from atrous.crf.numba_backend import filter_kernels, mean_field_kernels
from atrous.crf.numba_backend.lattice import LANES, Array, Lattice, Normalization, slice_factor
from atrous.crf.numba_backend.threads import parts_for, together

Float32s = npt.NDArray[np.float32]

FLOOR = np.float32(1e-5)  # probabilities are clipped here before the logarithm, as by pydensecrf's unary_from_softmax
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
    def of(cls, values: Array, *, energies: bool = False, prune: float = 0.0) -> Unary:
        """Prune the classes whose probability is nowhere above `prune`."""
        values = np.require(values, np.float32, ["C", "W"])  # numba would compile anew for read-only arrays
        everything = np.arange(len(values))
        if not prune:
            return cls(values, energies, everything, _NO_CLASSES)
        kept = values.max(1) > prune
        kept[values[:, 0].argmax()] |= not kept.any()  # something has to be left
        return cls(values, energies, everything[kept], everything[~kept])


class MeanField:
    """The kernels of one image, built once.

    *Shape:* `features[k]`: (points, d_k); `pixels`: (points,), the pixel behind each point.
    """

    def __init__(
        self, features: Sequence[Array], normalizations: Sequence[Normalization], pixels: npt.NDArray[np.int32]
    ) -> None:
        self.pixels = pixels
        self.lattice = Lattice.build(*features) if features else _no_lattice(len(pixels))
        self.splat_weights, self.slice_weights = self._weights(normalizations)

    def _weights(self, normalizations: Sequence[Normalization]) -> tuple[Float32s, Float32s]:
        """The barycentric weights with the normalization multiplied in, for splat and slice; one array if equal."""
        lattice = self.lattice
        if not lattice.kernels:
            return lattice.weights, lattice.weights
        factors = [kind.factors(each) for kind, each in zip(normalizations, lattice.row_sums(), strict=True)]
        before, after = (np.stack([pair[side] for pair in factors]).astype(np.float32) for side in (0, 1))
        splat_weights = slice_weights = lattice.weights
        if {Normalization.BEFORE, Normalization.AFTER} & set(normalizations):
            slice_weights = np.empty_like(splat_weights)
            self.run(1, filter_kernels.scaled_weights, lattice.weights, lattice.columns, after, slice_weights)
        self.run(1, filter_kernels.scaled_weights, lattice.weights, lattice.columns, before, splat_weights)
        return splat_weights, slice_weights

    def run(self, stages: int, kernel: Callable[..., None], *args: object) -> None:
        """Run a kernel over the pixels by a team of threads."""
        together(len(self.pixels), stages, kernel, *args)

    def infer(
        self,
        unary: Unary,
        couplings: Sequence[Array],
        iterations: int,
        *,
        tolerance: float = 0.0,
        divergence: Callable[[int, float], None] | None = None,
    ) -> Inference:
        """`iterations` updates from softmax(-U), fewer once no marginal changes by `tolerance` or more.

        `couplings[k]`: what a logit gains per filtered marginal: () for Potts, (classes,), or (classes, classes)
        with the sender first. `divergence(step, value)` is called with the KL divergence, up to a constant, before each
        step and after the last.
        """
        state = Inference(self, unary, couplings)
        if divergence is None and not tolerance:
            state.step(iterations)
            return state
        step = 0
        for step in range(1, iterations + 1):
            previous = state.marginals.copy() if tolerance else None
            (value,) = state.step(diverging=divergence is not None)
            if divergence is not None:
                divergence(step - 1, value)
            if previous is not None and np.abs(np.subtract(previous, state.marginals, out=previous)).max() < tolerance:
                break
        if divergence is not None:
            divergence(step, state.divergence())
        return state


def _no_lattice(points: int) -> Lattice:
    """What stands for the lattices of a CRF without pairwise terms."""
    none, nothing = np.empty(0, np.int32), np.zeros(1, np.int64)
    empty = np.empty((points, 0), np.int32)
    return Lattice(empty, empty.astype(np.float32), nothing, nothing, none, none, none, nothing, 0, 0)


class Inference:
    """Marginals of one inference, in panels of eight classes; `step` updates them in place."""

    def __init__(self, field: MeanField, unary: Unary, couplings: Sequence[Array]) -> None:
        self.field, self.unary = field, unary
        count = -(-(len(unary.kept) + bool(len(unary.pruned))) // LANES)
        self._send, self._source_of, self._matrices = self._messages(couplings, count)
        self.logits = np.empty((count, len(field.pixels), LANES), np.float32)
        self._panels = np.empty((1 + len(self._matrices), *self.logits.shape), np.float32)
        self._rows = field.lattice.empty_rows()
        given = (unary.values, field.pixels)
        if unary.energies:
            field.run(1, mean_field_kernels.start_from_energies, *given, self.logits, self.marginals)
        else:
            classes = (unary.kept, unary.pruned, FLOOR)
            field.run(1, mean_field_kernels.start_from_probabilities, *given, *classes, self.logits, self.marginals)

    @property
    def marginals(self) -> Float32s:
        """(panels, points, 8)."""
        return self._panels[0]

    def _messages(self, couplings: Sequence[Array], panels: int) -> tuple[Float32s, npt.NDArray[np.int64], Float32s]:
        """Per kernel what each class sends, (kernels, panels, 8), from which panels it is taken (0: the marginals
        themselves), and the matrices of those that mix classes first."""
        width, kept = panels * LANES, self.unary.kept
        send = np.zeros((len(couplings), width), np.float32)
        source_of = np.zeros(len(couplings), np.int64)
        matrices = []
        for kernel, coupling in enumerate(couplings):
            coupling = np.asarray(coupling, np.float64) * slice_factor(self.field.lattice.dimension(kernel))
            if coupling.ndim < 2:
                send[kernel, : len(kept)] = coupling if coupling.ndim == 0 else coupling[kept]
                continue
            matrix = np.zeros((width, width), np.float32)
            matrix[: len(kept), : len(kept)] = coupling[np.ix_(kept, kept)]
            matrices.append(matrix)
            send[kernel], source_of[kernel] = 1, len(matrices)
        mixing = np.stack(matrices) if matrices else np.empty((0, width, width), np.float32)
        return send.reshape(-1, panels, LANES), source_of, mixing.reshape(-1, width, panels, LANES)

    def step(self, steps: int = 1, *, diverging: bool = False) -> list[float]:
        """So many updates; if asked for, the divergence of the marginals before each, else zeros."""
        field, lattice = self.field, self.field.lattice
        terms = np.zeros((steps, parts_for(len(field.pixels)) if diverging else 0))
        field.run(
            steps * (len(self._matrices) + len(self.logits) * lattice.stages), mean_field_kernels.update,
            steps, lattice.arrays, field.splat_weights, field.slice_weights, self._send, self._source_of,
            self._matrices, self.logits, self._panels, self._rows, terms,
        )  # fmt: skip
        return [float(value) for value in terms.sum(1)]

    def divergence(self) -> float:
        """KL divergence of the present marginals up to a constant: sum of q (log q + U + messages), as pydensecrf's.

        Computing it takes a step, which is undone.
        """
        kept = self.marginals.copy()
        (value,) = self.step(diverging=True)
        self.marginals[:] = kept
        return value

    def set(self, marginals: Array) -> None:
        """Go on from other marginals (classes, pixels), of an unary without pruned classes."""
        for k, row in enumerate(np.asarray(marginals, np.float32)):
            self.marginals[k // LANES, :, k % LANES] = row[self.field.pixels]

    def probabilities(self, out: Float32s) -> Float32s:
        """Write the marginals to `out` (classes, pixels), where other pixels stay as they are."""
        self._write(mean_field_kernels.write_marginals, out)
        return out

    def labels(self, out: Array) -> Array:
        """Write the most probable class of each pixel to `out` (pixels,), where other pixels stay as they are."""
        self._write(mean_field_kernels.write_labels, out)
        return out

    def _write(self, kernel: Callable[..., None], out: Array) -> None:
        unary = self.unary
        self.field.run(
            1, kernel, self.marginals, unary.values, self.field.pixels, unary.kept, unary.pruned, FLOOR, out
        )  # fmt: skip
