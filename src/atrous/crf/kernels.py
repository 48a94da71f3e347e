"""Parameters of the pairwise terms, in the papers' symbols, and the presets of the papers.

    k(i, j) = w1 exp(-|p_i - p_j|^2 / 2 sigma_alpha^2 - |I_i - I_j|^2 / 2 sigma_beta^2)      appearance: `Bilateral`
            + w2 exp(-|p_i - p_j|^2 / 2 sigma_gamma^2)                                       smoothness: `Gaussian`

*Source:* Krähenbühl and Koltun 2011, equation 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atrous.crf.numba_backend.lattice import Array, Normalization, checked_features
from atrous.errors import AtrousError, did_you_mean

Weight = float | Sequence[float]
Sigma = float | Sequence[float]


def _sigmas(name: str, value: Sigma, count: int) -> tuple[float, ...]:
    found = np.atleast_1d(np.asarray(value, np.float64))
    found = np.repeat(found, count) if found.size == 1 else found
    if found.shape != (count,) or not (np.isfinite(found).all() and (found > 0).all()):
        raise AtrousError(f"{name} must be one positive number or {count} of them, found {value!r}")
    return tuple(float(each) for each in found)


class _Kernel:
    """What the terms share: a weight w and a compatibility mu."""

    w: Weight
    compatibility: Any

    def _check(self) -> None:
        weight, matrix = np.asarray(self.w, np.float64), self.compatibility
        if weight.ndim > 1 or not np.isfinite(weight).all():
            raise AtrousError(f"w must be one finite number, or one per class, found {self.w!r}")
        if matrix is not None:
            found = np.asarray(matrix, np.float64)
            if found.ndim != 2 or found.shape[0] != found.shape[1] or not np.isfinite(found).all():
                raise AtrousError(
                    f"compatibility must be a finite (classes, classes) matrix, found shape {found.shape}"
                )

    def coupling(self, classes: int) -> Array:
        """What a logit gains per unit of filtered marginal: w for Potts, else -w mu with the sending class first.

        *Raises:* `AtrousError` when a weight per class or a matrix is not for this many classes.
        """
        weight, matrix = np.asarray(self.w, np.float64), self.compatibility
        if weight.ndim and weight.shape != (classes,):
            raise AtrousError(f"w has {weight.size} values, the probabilities {classes} classes; give one w per class")
        if matrix is None:
            return weight
        found = np.asarray(matrix, np.float64)
        if found.shape != (classes, classes):
            raise AtrousError(f"compatibility is {found.shape}, expected ({classes}, {classes}): one row per class")
        return np.asarray(-(found * weight).T)  # w of the class that sends


@dataclass(frozen=True)
class Gaussian(_Kernel):
    """The smoothness term: w exp(-|p_i - p_j|^2 / 2 sigma_gamma^2).

    `w`: weight, or one per class (of the class that sends the message). `sigma_gamma`: pixels, or (x, y).
    `compatibility`: mu(receiver, sender), the energy of the two labels side by side; `None` is Potts, where equal
    labels are rewarded by w, which has the same minimum as unequal ones being punished by it.

    *Raises:* `AtrousError` for values that cannot be used.
    """

    w: Weight = 3.0
    sigma_gamma: Sigma = 3.0
    compatibility: Any = None
    normalization: Normalization = Normalization.SYMMETRIC

    def __post_init__(self) -> None:
        self._check()
        _sigmas("sigma_gamma", self.sigma_gamma, 2)

    def features(self, image: Array) -> Array:
        """Position over sigma, (H * W, 2), from an image (H, W, 3)."""
        return position_features(image.shape[:2], _sigmas("sigma_gamma", self.sigma_gamma, 2)).reshape(-1, 2)


@dataclass(frozen=True)
class Bilateral(_Kernel):
    """The appearance term: w exp(-|p_i - p_j|^2 / 2 sigma_alpha^2 - |I_i - I_j|^2 / 2 sigma_beta^2).

    `sigma_alpha`: pixels, or (x, y). `sigma_beta`: levels of 0..255, or one per channel. The rest as in `Gaussian`.

    *Raises:* `AtrousError` for values that cannot be used.
    """

    w: Weight = 4.0
    sigma_alpha: Sigma = 67.0
    sigma_beta: Sigma = 3.0
    compatibility: Any = None
    normalization: Normalization = Normalization.SYMMETRIC

    def __post_init__(self) -> None:
        self._check()
        _sigmas("sigma_alpha", self.sigma_alpha, 2)
        _sigmas("sigma_beta", self.sigma_beta, 3)

    def features(self, image: Array) -> Array:
        """Position and color over their sigmas, (H * W, 5), from an image (H, W, 3)."""
        height, width = image.shape[:2]
        out = np.empty((height, width, 5), np.float32)
        out[..., :2] = position_features((height, width), _sigmas("sigma_alpha", self.sigma_alpha, 2))
        np.divide(
            image, np.asarray(_sigmas("sigma_beta", self.sigma_beta, 3), np.float32), out=out[..., 2:], dtype=np.float32
        )
        return out.reshape(-1, 5)


def position_features(size: tuple[int, ...], sigmas: tuple[float, ...]) -> Array:
    """(x / sigma_x, y / sigma_y) of every pixel, (H, W, 2) float32; rounded as in pydensecrf."""
    height, width = size
    out = np.empty((height, width, 2), np.float32)
    out[..., 0] = np.arange(width, dtype=np.float32) / np.float32(sigmas[0])
    out[..., 1] = (np.arange(height, dtype=np.float32) / np.float32(sigmas[1]))[:, None]
    return out


@dataclass(frozen=True)
class Features(_Kernel):
    """A term with features of any kind and dimension: w exp(-|f_i - f_j|^2 / 2).

    `values`: (d, H, W) or (d, points), each already divided by its sigma.

    *Raises:* `AtrousError` for values that cannot be used.
    """

    values: Any
    w: Weight = 1.0
    compatibility: Any = None
    normalization: Normalization = Normalization.SYMMETRIC

    def __post_init__(self) -> None:
        self._check()

    def features(self, image: Array) -> Array:
        """The given features, (H * W, d)."""
        found = np.asarray(self.values, np.float32)
        return checked_features(found.reshape(len(found), -1).T)


@dataclass(frozen=True)
class Preset:
    """A paper's CRF: its two terms and the number of mean-field updates."""

    gaussian: Gaussian
    bilateral: Bilateral
    iterations: int = 10


PRESETS = {
    "v1": Preset(Gaussian(3, 3), Bilateral(5, 50, 10)),
    "v2": Preset(Gaussian(3, 3), Bilateral(4, 49, 5)),
    "v2_resnet": Preset(Gaussian(4, 1), Bilateral(5, 21, 3)),
    "crf_rnn": Preset(
        Gaussian(3, 3, normalization=Normalization.AFTER), Bilateral(5, 160, 3, normalization=Normalization.AFTER)
    ),
    "krahenbuhl": Preset(Gaussian(3, 3), Bilateral(10, 80, 13), iterations=5),
}


def preset(name: str) -> Preset:
    """The CRF of a paper, by name.

    *Source:* `v1`: DeepLab v1 (arXiv:1412.7062), w2 = 3 and sigma_gamma = 3 from section 4.1, the rest the defaults of
    its released code. `v2`: DeepLab v2 (arXiv:1606.00915), the released script of the VGG-16 network. `v2_resnet`: the
    released ResNet-101 test prototxt. `crf_rnn`: CRF as RNN (arXiv:1502.03240), as released,
    normalized after filtering. `krahenbuhl`: the example
    of Krähenbühl's code and of pydensecrf, 5 updates.

    *Raises:* `AtrousError` for a name that is not known.
    """
    if name not in PRESETS:
        raise AtrousError(f"no CRF preset '{name}'; there are {', '.join(PRESETS)}.{did_you_mean(name, PRESETS)}")
    return PRESETS[name]
