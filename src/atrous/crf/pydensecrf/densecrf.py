"""`pydensecrf.densecrf` on atrous' lattice: same names, same arguments, same results.

*Source:* github.com/lucasb-eyer/pydensecrf, `densecrf.pyx`, `densecrf.cpp`, `pairwise.cpp`, `labelcompatibility.cpp`.
Camel case and argument names are the original's.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from numbers import Real
from typing import Any

import numpy as np

from atrous.crf.kernels import position_features
from atrous.crf.numba_backend.lattice import Array, Normalization, checked_features
from atrous.crf.numba_backend.mean_field import Inference, MeanField, Unary
from atrous.errors import AtrousError

# ruff: noqa: N802 (the names of the original)


class KernelType(IntEnum):
    """How the original would learn a transform of the features; at its start, which is all a caller reaches, the
    transform is the identity, so the three give the same result."""

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


NormalizationType = IntEnum(
    "NormalizationType",
    {"NO_NORMALIZATION": 0, "NORMALIZE_BEFORE": 1, "NORMALIZE_AFTER": 2, "NORMALIZE_SYMMETRIC": 3},
)  # fmt: skip

CONST_KERNEL, DIAG_KERNEL, FULL_KERNEL = KernelType
NO_NORMALIZATION, NORMALIZE_BEFORE, NORMALIZE_AFTER, NORMALIZE_SYMMETRIC = NormalizationType


def _coupling(compat: Any, classes: int) -> Array:
    """What logits gain: Potts rewards agreement by `compat`; a vector or a matrix is an energy, hence the sign.

    A matrix is made symmetric, as the original does.
    """
    if isinstance(compat, Real):
        return np.asarray(float(compat))
    found = np.asarray(compat, np.float64)
    if found.ndim > 2:
        raise AtrousError("LabelCompatibility of dimension >2 not meaningful.")
    if found.shape not in ((), (classes,), (classes, classes)):
        raise AtrousError(f"compat has shape {found.shape}, expected a number, ({classes},) or ({classes}, {classes})")
    return found if found.ndim == 0 else -found if found.ndim == 1 else -(found + found.T) / 2


class DenseCRF:
    """A fully connected CRF over `nvar` variables with `nlabels` labels and pairwise terms on features of any kind."""

    def __init__(self, nvar: int, nlabels: int) -> None:
        if nvar < 1 or nlabels < 1:
            raise AtrousError(f"a CRF needs at least one variable and one label, found {nvar} and {nlabels}")
        self._nvar, self._nlabel = nvar, nlabels
        self._unary: Array = np.zeros((nlabels, nvar), np.float32)
        self._features: list[Array] = []
        self._couplings: list[Array] = []
        self._normalizations: list[Normalization] = []
        self._field: MeanField | None = None

    def setUnaryEnergy(self, u: Any, f: Any = None) -> None:
        """Set the energies, minus log probabilities, (nlabels, nvar); with `f` (features, nvar), u is (nlabels,
        features) and the energies are u f: logistic regression."""
        found = np.asarray(u, np.float32)
        if f is not None:
            found = found @ np.asarray(f, np.float32)
        if found.shape != (self._nlabel, self._nvar):
            raise AtrousError(f"Bad shape for unary energy (Need {(self._nlabel, self._nvar)}, got {found.shape})")
        if np.isnan(found).any():
            raise AtrousError("the unary energy holds NaN; expected finite numbers (was a probability below 0?)")
        self._unary = found

    def addPairwiseEnergy(
        self, features: Any, compat: Any, kernel: int = DIAG_KERNEL, normalization: int = NORMALIZE_SYMMETRIC
    ) -> None:
        """Add a term on `features` (d, nvar), each divided by its standard deviation."""
        found = np.asarray(features, np.float32)
        if found.ndim != 2 or found.shape[1] != self._nvar:
            raise AtrousError(f"Bad shape for pairwise energy (Need (?, {self._nvar}), got {found.shape})")
        self._add(found.T, compat, kernel, normalization)

    def _add(self, features: Array, compat: Any, kernel: int, normalization: int) -> None:
        KernelType(kernel)  # a ValueError for a number that is none
        coupling = _coupling(compat, self._nlabel)
        self._normalizations.append(Normalization(normalization))
        self._couplings.append(coupling)
        self._features.append(checked_features(features))
        self._field = None

    def inference(self, niter: int) -> Array:
        """Marginals (nlabels, nvar) float32 after `niter` updates."""
        state = self._built().infer(self._energies(), self._couplings, niter)
        return state.probabilities(np.empty((self._nlabel, self._nvar), np.float32))

    def map(self, niter: int) -> Array:
        """The most probable label of each variable, (nvar,), after `niter` updates."""
        return self._built().infer(self._energies(), self._couplings, niter).labels(np.empty(self._nvar, np.int64))

    def startInference(self) -> tuple[Array, Array, Array]:
        """The marginals to start from, and two scratch arrays that `stepInference` wants back."""
        return self.inference(0), np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)

    def stepInference(self, Q: Array, tmp1: Array, tmp2: Array) -> None:
        """Update the marginals `Q` in place; the scratch arrays are not needed here."""
        state = self._resumed(Q)
        state.step()
        Q[...] = state.probabilities(np.empty((self._nlabel, self._nvar), np.float32))

    def klDivergence(self, Q: Any) -> float:
        """KL divergence of the marginals `Q` from the CRF, up to a constant."""
        return self._resumed(Q).divergence()

    def _built(self) -> MeanField:
        if self._field is None:
            self._field = MeanField(self._features, self._normalizations, np.arange(self._nvar, dtype=np.int32))
        return self._field

    def _energies(self) -> Unary:
        return Unary.of(self._unary, energies=True)

    def _resumed(self, Q: Any) -> Inference:
        found = np.asarray(Q, np.float32)
        if found.shape != (self._nlabel, self._nvar):
            raise AtrousError(f"Q has shape {found.shape}, expected {(self._nlabel, self._nvar)}")
        state = self._built().infer(self._energies(), self._couplings, 0)
        state.set(found)
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
        found = np.asarray(rgbim)
        if found.dtype != np.uint8:
            raise AtrousError(f"rgbim is {found.dtype}, expected uint8")
        if found.shape != (self._h, self._w, 3):
            raise AtrousError(f"Bad shape for pairwise bilateral (Need {(self._h, self._w, 3)}, got {found.shape})")
        features = np.empty((self._h, self._w, 5), np.float32)
        features[..., :2] = self._positions(sxy)
        np.divide(found, np.broadcast_to(np.asarray(srgb, np.float32), 3), out=features[..., 2:], dtype=np.float32)
        self._add(features.reshape(-1, 5), compat, kernel, normalization)

    def _positions(self, sxy: float | Sequence[float]) -> Array:
        x, y = np.broadcast_to(np.asarray(sxy, np.float32), 2)
        return position_features((self._h, self._w), (float(x), float(y)))
