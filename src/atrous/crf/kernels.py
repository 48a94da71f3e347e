"""Pairwise kernels of the fully connected CRF: Gaussian and bilateral terms, label compatibility, normalization.

    E(x) = sum_i U_i(x_i) + sum_{i<j} mu(x_i, x_j) k(i, j)
    k(i, j) = w1 exp(-|p_i - p_j|^2 / 2 sigma_alpha^2 - |I_i - I_j|^2 / 2 sigma_beta^2)      appearance: `Bilateral`
            + w2 exp(-|p_i - p_j|^2 / 2 sigma_gamma^2)                                       smoothness: `Gaussian`

with the unary energies U, positions p, colors I and the label compatibility mu: `PottsCompatibility`, the default, or
`MatrixCompatibility`. "Kernel" always means such a function of two pixels; the compiled functions that filter with it
are in `numba_backend/*_jit.py`.

Source: Krähenbühl and Koltun 2011, equations 1 to 3.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np

from atrous.crf.validation import Array, checked_features
from atrous.errors import AtrousError

Weight = float | Sequence[float] | Array
Sigma = float | Sequence[float]

MIN_PROBABILITY = 1e-5
"""Probabilities are clipped here before the logarithm, as by pydensecrf's `unary_from_softmax`."""


class Normalization(IntEnum):
    """Normalization of a kernel matrix K by its row sums n = K 1; the numbers are pydensecrf's.

    `NONE` leaves K as it is (pydensecrf computes a mean norm here but never applies it), `BEFORE` gives K(v / n),
    `AFTER` K(v) / n, `SYMMETRIC` K(v / sqrt n) / sqrt n.
    """

    NONE = 0
    BEFORE = 1
    AFTER = 2
    SYMMETRIC = 3

    def factors(self, row_sums: Any) -> tuple[Any, Any]:
        """Compute the factors for values before and after filtering, from row sums (numpy or torch, any shape)."""
        one = row_sums * 0 + 1
        if self is Normalization.NONE:
            return one, one
        if self is Normalization.SYMMETRIC:
            root = 1 / (row_sums + 1e-20) ** 0.5
            return root, root
        inverse = 1 / (row_sums + 1e-20)
        return (inverse, one) if self is Normalization.BEFORE else (one, inverse)


@dataclass(frozen=True)
class PottsCompatibility:
    """The Potts model: mu(a, b) = [a != b], the same cost for any two labels that differ.

    A pair of pixels with unequal labels costs w k(i, j), one with equal labels costs nothing. Mean field therefore
    subtracts from logit a of a pixel the message

        sum_b w [a != b] (K Q_b) = w (K 1) - w (K Q_a)

    of which the first summand is the same for every label and cancels in the softmax. So the implementation *adds*
    w (K Q_a): a positive w rewards equal labels, which has the same minimum as penalizing unequal ones.

    Source: Krähenbühl and Koltun 2011, section 2; their code's `PottsCompatibility` uses -w I in the same way.
    """

    def scaled(self, w: Weight, num_classes: int) -> Array:
        """Return the factor of filtered marginals in the logits: w, one number or one per class."""
        return np.asarray(w, np.float64)


@dataclass(frozen=True, eq=False)
class MatrixCompatibility:
    """A label compatibility of your own: `matrix[a, b]` = mu(a, b), the energy of labels a and b side by side.

    Row a is the label that receives the message, column b the label that sends it; w, where it is one per class, is
    the sender's. Mean field subtracts sum_b mu(a, b) w_b (K Q_b) from logit a, so a negative entry draws label a to
    where label b is. `1 - I` is the Potts model, and `-I` gives the same results. A matrix need not be symmetric.

    Raises: `AtrousError` unless the matrix is square and finite.
    """

    matrix: Any

    def __post_init__(self) -> None:
        matrix = np.asarray(self.matrix, np.float64)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
            raise AtrousError(f"compatibility must be a finite (classes, classes) matrix, found shape {matrix.shape}.")

    def scaled(self, w: Weight, num_classes: int) -> Array:
        """Return the factors of filtered marginals in the logits, -w mu, (classes, classes) with the sender first.

        Raises: `AtrousError` when the matrix is not for this many classes.
        """
        matrix = np.asarray(self.matrix, np.float64)
        if matrix.shape != (num_classes, num_classes):
            raise AtrousError(
                f"compatibility is {matrix.shape}, expected ({num_classes}, {num_classes}): one row per class."
            )
        return np.asarray(-(matrix * np.asarray(w, np.float64)).T)


Compatibility = PottsCompatibility | MatrixCompatibility


class PairwiseKernel(ABC):
    """Base class of the pairwise terms: a weight w, a compatibility mu and a normalization."""

    w: Weight
    compatibility: Any
    normalization: Normalization

    def __post_init__(self) -> None:
        weight = np.asarray(self.w, np.float64)
        if weight.ndim > 1 or not np.isfinite(weight).all():
            raise AtrousError(f"w must be one finite number, or one per class, found {self.w!r}.")
        if not isinstance(self.compatibility, Compatibility):  # a bare matrix
            object.__setattr__(self, "compatibility", MatrixCompatibility(self.compatibility))

    @abstractmethod
    def features(self, image: Array) -> Array:
        """Compute the features of every pixel over their sigmas, (H * W, d), from an image (H, W, 3)."""

    def scaled_compatibility(self, num_classes: int) -> Array:
        """Return the factors by which filtered marginals are added to the logits: -w mu, up to a constant.

        () or (classes,) for Potts, (classes, classes) with the sending class first for a matrix.

        Raises: `AtrousError` when a weight per class or a matrix is not for this many classes.
        """
        weight = np.asarray(self.w, np.float64)
        if weight.ndim and weight.shape != (num_classes,):
            raise AtrousError(
                f"w has {weight.size} values, the probabilities {num_classes} classes; give one w per class."
            )
        return np.asarray(self.compatibility.scaled(self.w, num_classes))


@dataclass(frozen=True)
class Gaussian(PairwiseKernel):
    """The smoothness term: w exp(-|p_i - p_j|^2 / 2 sigma_gamma^2).

    `w`: weight, or one per class (of the class that sends the message). `sigma_gamma`: pixels, or (x, y).
    `compatibility`: `PottsCompatibility`, `MatrixCompatibility` or a bare matrix mu(receiver, sender).

    Raises: `AtrousError` for invalid values.
    """

    w: Weight = 3.0
    sigma_gamma: Sigma = 3.0
    compatibility: Any = field(default_factory=PottsCompatibility)
    normalization: Normalization = Normalization.SYMMETRIC

    def __post_init__(self) -> None:
        super().__post_init__()
        _sigmas("sigma_gamma", self.sigma_gamma, 2)

    def features(self, image: Array) -> Array:
        """Compute position over sigma, (H * W, 2), from an image (H, W, 3)."""
        return position_features(image.shape[:2], _sigmas("sigma_gamma", self.sigma_gamma, 2)).reshape(-1, 2)


@dataclass(frozen=True)
class Bilateral(PairwiseKernel):
    """The appearance term: w exp(-|p_i - p_j|^2 / 2 sigma_alpha^2 - |I_i - I_j|^2 / 2 sigma_beta^2).

    `sigma_alpha`: pixels, or (x, y). `sigma_beta`: levels of 0..255, or one per channel. The rest as in `Gaussian`.

    Raises: `AtrousError` for invalid values.
    """

    w: Weight = 4.0
    sigma_alpha: Sigma = 67.0
    sigma_beta: Sigma = 3.0
    compatibility: Any = field(default_factory=PottsCompatibility)
    normalization: Normalization = Normalization.SYMMETRIC

    def __post_init__(self) -> None:
        super().__post_init__()
        _sigmas("sigma_alpha", self.sigma_alpha, 2)
        _sigmas("sigma_beta", self.sigma_beta, 3)

    def features(self, image: Array) -> Array:
        """Compute position and color over their sigmas, (H * W, 5), from an image (H, W, 3)."""
        height, width = image.shape[:2]
        out = np.empty((height, width, 5), np.float32)
        out[..., :2] = position_features((height, width), _sigmas("sigma_alpha", self.sigma_alpha, 2))
        sigma_beta = np.asarray(_sigmas("sigma_beta", self.sigma_beta, 3), np.float32)
        np.divide(image, sigma_beta, out=out[..., 2:], dtype=np.float32)
        return out.reshape(-1, 5)


@dataclass(frozen=True)
class Features(PairwiseKernel):
    """A term on features of your own, of any dimension d: w exp(-|f_i - f_j|^2 / 2).

    `values`: (d, H, W) or (d, points), each already divided by its sigma. The rest as in `Gaussian`.

    Raises: `AtrousError` for invalid values.
    """

    values: Any
    w: Weight = 1.0
    compatibility: Any = field(default_factory=PottsCompatibility)
    normalization: Normalization = Normalization.SYMMETRIC

    def features(self, image: Array) -> Array:
        """Return `values` as (H * W, d)."""
        values = np.asarray(self.values, np.float32)
        return checked_features(values.reshape(len(values), -1).T)


def position_features(size: tuple[int, ...], sigmas: tuple[float, ...]) -> Array:
    """Compute (x / sigma_x, y / sigma_y) of every pixel, (H, W, 2) float32; rounded as in pydensecrf."""
    height, width = size
    out = np.empty((height, width, 2), np.float32)
    out[..., 0] = np.arange(width, dtype=np.float32) / np.float32(sigmas[0])
    out[..., 1] = (np.arange(height, dtype=np.float32) / np.float32(sigmas[1]))[:, None]
    return out


def _sigmas(name: str, value: Sigma, count: int) -> tuple[float, ...]:
    sigmas = np.atleast_1d(np.asarray(value, np.float64))
    sigmas = np.repeat(sigmas, count) if sigmas.size == 1 else sigmas
    if sigmas.shape != (count,) or not (np.isfinite(sigmas).all() and (sigmas > 0).all()):
        raise AtrousError(f"{name} must be one positive number or {count} of them, found {value!r}.")
    return tuple(float(sigma) for sigma in sigmas)
