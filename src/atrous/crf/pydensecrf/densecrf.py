"""`pydensecrf.densecrf` on atrous' lattice: same names, same arguments, same results.

Source: github.com/lucasb-eyer/pydensecrf, `densecrf.pyx`, `densecrf.cpp`, `pairwise.cpp`, `labelcompatibility.cpp`.
Camel case and argument names are the original's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from atrous.crf.kernels import Normalization, position_features
from atrous.crf.numba_backend.mean_field import MeanField, MeanFieldState
from atrous.crf.numba_backend.mean_field import Unary as Energies
from atrous.crf.pydensecrf.pairwise import (
    CONST_KERNEL,
    DIAG_KERNEL,
    FULL_KERNEL,
    NO_NORMALIZATION,
    NORMALIZE_AFTER,
    NORMALIZE_BEFORE,
    NORMALIZE_SYMMETRIC,
    KernelType,
    NormalizationType,
    checked_sigmas,
    scaled_compatibility,
)
from atrous.crf.pydensecrf.unary import ConstUnary, LogisticUnary, Unary
from atrous.crf.validation import Array, checked_features
from atrous.errors import AtrousError

# ruff: noqa: N802 (the names of the original)

__all__ = [
    "CONST_KERNEL", "DIAG_KERNEL", "FULL_KERNEL", "NORMALIZE_AFTER", "NORMALIZE_BEFORE", "NORMALIZE_SYMMETRIC",
    "NO_NORMALIZATION", "ConstUnary", "DenseCRF", "DenseCRF2D", "KernelType", "LogisticUnary", "NormalizationType",
    "Unary",
]  # fmt: skip


class DenseCRF:
    """A fully connected CRF over `nvar` variables with `nlabels` labels and pairwise terms on features of any kind."""

    def __init__(self, nvar: int, nlabels: int) -> None:
        if nvar < 1 or nlabels < 1:
            raise AtrousError(f"A CRF needs at least one variable and one label, found {nvar} and {nlabels}.")
        self._nvar, self._nlabel = nvar, nlabels
        self._unary: Array = np.zeros((nlabels, nvar), np.float32)
        self._features: list[Array] = []
        self._compatibilities: list[Array] = []
        self._normalizations: list[Normalization] = []
        self._mean_field: MeanField | None = None

    def setUnary(self, u: Unary) -> None:
        """Set the energies, minus log probabilities, to those of a `ConstUnary` or `LogisticUnary`."""
        self.setUnaryEnergy(u.energies)

    def setUnaryEnergy(self, u: Any, f: Any = None) -> None:
        """Set the energies, minus log probabilities, (nlabels, nvar); with `f` (features, nvar), u is (nlabels,
        features) and the energies are u f: logistic regression."""
        array = np.array(u, np.float32)  # a copy, as in C++: the caller may reuse the array
        if f is not None:
            array = array @ np.asarray(f, np.float32)
        if array.shape != (self._nlabel, self._nvar):
            raise AtrousError(f"Bad shape for unary energy (Need {(self._nlabel, self._nvar)}, got {array.shape}).")
        if np.isnan(array).any():
            raise AtrousError("The unary energy holds NaN; expected finite numbers (was a probability below 0?).")
        self._unary = array

    def addPairwiseEnergy(
        self, features: Any, compat: Any, kernel: int = DIAG_KERNEL, normalization: int = NORMALIZE_SYMMETRIC
    ) -> None:
        """Add a term on `features` (d, nvar), each divided by its standard deviation."""
        array = np.asarray(features, np.float32)
        if array.ndim != 2 or array.shape[1] != self._nvar:
            raise AtrousError(f"Bad shape for pairwise energy (Need (?, {self._nvar}), got {array.shape}).")
        self._add(array.T, compat, kernel, normalization)

    def _add(self, features: Array, compat: Any, kernel: int, normalization: int) -> None:
        KernelType(kernel)  # raises ValueError for an unknown number
        compatibility = scaled_compatibility(compat, self._nlabel)
        self._normalizations.append(Normalization(normalization))
        self._compatibilities.append(compatibility)
        self._features.append(checked_features(features))
        self._mean_field = None

    def inference(self, niter: int) -> Array:
        """Compute marginals (nlabels, nvar) float32 after `niter` updates."""
        state = self._built_mean_field().infer(self._energies(), self._compatibilities, niter)
        return state.write_probabilities(np.empty((self._nlabel, self._nvar), np.float32))

    def map(self, niter: int) -> Array:
        """Compute the most probable label of each variable, (nvar,), after `niter` updates."""
        state = self._built_mean_field().infer(self._energies(), self._compatibilities, niter)
        return state.write_labels(np.empty(self._nvar, np.int64))

    def startInference(self) -> tuple[Array, Array, Array]:
        """Return the initial marginals and two scratch arrays, the arguments of `stepInference`."""
        return self.inference(0), np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)

    def stepInference(self, Q: Array, tmp1: Array, tmp2: Array) -> None:
        """Update the marginals `Q` in place; the scratch arrays are not used."""
        state = self._state_of(Q)
        state.step()
        Q[...] = state.write_probabilities(np.empty((self._nlabel, self._nvar), np.float32))

    def klDivergence(self, Q: Any) -> float:
        """Compute the KL divergence of the marginals `Q` from the CRF, up to a constant."""
        return self._state_of(Q).kl_divergence()

    def _built_mean_field(self) -> MeanField:
        if self._mean_field is None:
            self._mean_field = MeanField(self._features, self._normalizations, np.arange(self._nvar, dtype=np.int32))
        return self._mean_field

    def _energies(self) -> Energies:
        return Energies.build(self._unary, energies=True)

    def _state_of(self, Q: Any) -> MeanFieldState:
        array = np.asarray(Q, np.float32)
        if array.shape != (self._nlabel, self._nvar):
            raise AtrousError(f"Q has shape {array.shape}, expected {(self._nlabel, self._nvar)}.")
        state = self._built_mean_field().infer(self._energies(), self._compatibilities, 0)
        state.set_marginals(array)
        return state


class DenseCRF2D(DenseCRF):
    """A fully connected CRF over an image `w` wide and `h` high (the order of the original)."""

    def __init__(self, w: int, h: int, nlabels: int) -> None:
        super().__init__(w * h, nlabels)
        self._w, self._h = w, h

    def addPairwiseGaussian(
        self,
        sxy: float | Sequence[float],
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a term on position; `sxy` is a number or (x, y)."""
        self._add(self._positions(sxy).reshape(-1, 2), compat, kernel, normalization)

    def addPairwiseBilateral(
        self,
        sxy: float | Sequence[float],
        srgb: float | Sequence[float],
        rgbim: Any,
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a term on position and color of `rgbim` (h, w, 3) uint8; `srgb` is a number or one per channel."""
        array = np.asarray(rgbim)
        if array.dtype != np.uint8:
            raise AtrousError(f"rgbim is {array.dtype}, expected uint8.")
        if array.shape != (self._h, self._w, 3):
            raise AtrousError(f"Bad shape for pairwise bilateral (Need {(self._h, self._w, 3)}, got {array.shape}).")
        features = np.empty((self._h, self._w, 5), np.float32)
        features[..., :2] = self._positions(sxy)
        sigmas = np.array(checked_sigmas("srgb", srgb, 3), np.float32)
        np.divide(array, sigmas, out=features[..., 2:], dtype=np.float32)
        self._add(features.reshape(-1, 5), compat, kernel, normalization)

    def _positions(self, sxy: float | Sequence[float]) -> Array:
        return position_features((self._h, self._w), checked_sigmas("sxy", sxy, 2))
