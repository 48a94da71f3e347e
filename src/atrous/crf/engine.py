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

from atrous.crf import engine_numba, filter_numba
from atrous.crf.lattice import LANES, Array, Lattice, Normalization, kernels_running, slice_factor

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
        self,
        features: Sequence[Array],
        normalizations: Sequence[Normalization],
        pixels: npt.NDArray[np.int32],
    ) -> None:
        self.lattice: Lattice | None = None
        with kernels_running(len(pixels)):
            if features:
                self.lattice = Lattice.build(*features)
                self.splat_weights, self.slice_weights = self._weights(self.lattice, normalizations)
        self.pixels = pixels
        self._parts = 64

    @staticmethod
    def _weights(lattice: Lattice, normalizations: Sequence[Normalization]) -> tuple[Float32s, Float32s]:
        """The barycentric weights with the normalisation multiplied in, for splat and slice; one array if equal."""
        sums = lattice.row_sums()
        factors = [kind.factors(each) for kind, each in zip(normalizations, sums, strict=True)]
        before, after = (np.stack([pair[side] for pair in factors]).astype(np.float32) for side in (0, 1))
        splat_weights = lattice.weights
        one_sided = {Normalization.BEFORE, Normalization.AFTER} & set(normalizations)
        slice_weights = np.empty_like(splat_weights) if one_sided else splat_weights
        if one_sided:
            filter_numba.scaled_weights(lattice.weights, lattice.columns, after, slice_weights)
        filter_numba.scaled_weights(lattice.weights, lattice.columns, before, splat_weights)
        return splat_weights, slice_weights

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
        with kernels_running(len(self.pixels)):
            state = Inference(self, unary, couplings)
            previous = np.empty_like(state.marginals) if tolerance else None
            for step in range(iterations):
                if previous is not None:
                    np.copyto(previous, state.marginals)
                value = state.step(divergence is not None)
                if divergence is not None:
                    divergence(step, value)
                if previous is not None:
                    change = engine_numba.largest_change(previous.ravel(), state.marginals.ravel(), self._parts)
                    if change < tolerance:
                        break
            if divergence is not None:
                divergence(step + 1 if iterations else 0, state.divergence())
        return state


class Inference:
    """Marginals of one inference, in panels of eight classes; `step` updates them in place."""

    def __init__(self, field: MeanField, unary: Unary, couplings: Sequence[Array]) -> None:
        self.field, self.unary = field, unary
        classes = len(unary.kept) + bool(len(unary.pruned))
        panels = -(-classes // LANES)
        self._send, self._mixes = self._messages(couplings, panels)
        self.logits = np.empty((panels, len(field.pixels), LANES), np.float32)
        if unary.energies:
            engine_numba.logits_from_energies(unary.values, field.pixels, self.logits, field._parts)
        else:
            engine_numba.logits_from_probabilities(
                unary.values, field.pixels, unary.kept, unary.pruned, FLOOR, self.logits, field._parts
            )
        self.marginals = np.empty_like(self.logits)
        self._mixed = {kernel: np.empty_like(self.logits) for kernel in self._mixes}
        self._rows = field.lattice.empty_rows() if field.lattice else np.empty((0, LANES), np.float32)
        for panel in range(panels):
            self._update(panel, first=True)

    def _messages(self, couplings: Sequence[Array], panels: int) -> tuple[Float32s, dict[int, Float32s]]:
        """Per kernel what each class sends, (kernels, panels, 8), and the matrices of those that mix classes."""
        width, kept = panels * LANES, self.unary.kept
        send = np.zeros((len(couplings), width), np.float32)
        mixes: dict[int, Float32s] = {}
        for kernel, coupling in enumerate(couplings):
            coupling = np.asarray(coupling, np.float64) * slice_factor(self._lattice.dimension(kernel))
            if coupling.ndim < 2:
                send[kernel, : len(kept)] = coupling if coupling.ndim == 0 else coupling[kept]
                continue
            matrix = np.zeros((width, width), np.float32)
            matrix[: len(kept), : len(kept)] = coupling[np.ix_(kept, kept)]
            mixes[kernel] = matrix.reshape(width, panels, LANES)
            send[kernel] = 1
        return send.reshape(len(couplings), panels, LANES), mixes

    @property
    def _lattice(self) -> Lattice:
        assert self.field.lattice is not None  # there is one wherever there is a coupling
        return self.field.lattice

    def _update(self, panel: int, *, first: bool = False, divergence: Array | None = None) -> None:
        lattice = self.field.lattice
        nothing = np.empty((0, 0))
        engine_numba.update_panel(
            nothing.astype(np.int32) if lattice is None else lattice.offsets,
            nothing.astype(np.float32) if lattice is None else self.field.slice_weights,
            self._rows, self.logits, self.marginals, panel, first or lattice is None,
            np.empty(0) if divergence is None else divergence,
        )  # fmt: skip

    def _sources(self, panel: int) -> list[tuple[int, int, Array]]:
        """Which panel of values each kernel filters: the marginals, unless its matrix has mixed them first."""
        if not self._mixes:
            return [(0, self._lattice.kernels, self.marginals[panel])]
        return [
            (kernel, kernel + 1, self._mixed.get(kernel, self.marginals)[panel])
            for kernel in range(self._lattice.kernels)
        ]

    def step(self, divergence: bool = False) -> float:
        """One update; the divergence of the marginals it started from, if asked for, else 0."""
        terms = np.zeros(self.field._parts if divergence else 0)
        with kernels_running(len(self.field.pixels)):
            for kernel, matrix in self._mixes.items():
                engine_numba.mix_classes(self.marginals, matrix, self._mixed[kernel])
            for panel in range(len(self.marginals)):
                if self.field.lattice is not None:
                    send = np.ascontiguousarray(self._send[:, panel])
                    self._lattice.splat_and_blur(self._sources(panel), send, self._rows, self.field.splat_weights)
                self._update(panel, divergence=terms)
        return float(terms.sum())

    def divergence(self) -> float:
        """KL divergence of the present marginals up to a constant: sum of q (log q + U + messages), as pydensecrf's.

        Computing it takes a step, which is undone.
        """
        kept = self.marginals.copy()
        value = self.step(divergence=True)
        self.marginals = kept
        return value

    def set(self, marginals: Array) -> None:
        """Go on from other marginals (classes, pixels), of an unary without pruned classes."""
        for k, row in enumerate(np.asarray(marginals, np.float32)):
            self.marginals[k // LANES, :, k % LANES] = row[self.field.pixels]

    def probabilities(self, out: Float32s) -> Float32s:
        """Write the marginals to `out` (classes, pixels), where other pixels stay as they are."""
        self._write(engine_numba.write_marginals, out)
        return out

    def labels(self, out: Array) -> Array:
        """Write the most probable class of each pixel to `out` (pixels,), where other pixels stay as they are."""
        self._write(engine_numba.write_labels, out)
        return out

    def _write(self, kernel: Callable[..., None], out: Array) -> None:
        unary = self.unary
        with kernels_running(len(self.field.pixels)):
            kernel(
                self.marginals, unary.values, self.field.pixels, unary.kept, unary.pruned, FLOOR, out, self.field._parts
            )
