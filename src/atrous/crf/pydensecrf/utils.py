"""`pydensecrf.utils`: unaries from labels and softmaxes, features for n-dimensional grids.

Source: github.com/lucasb-eyer/pydensecrf, `utils.py`; same arguments, same results.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from atrous.crf.validation import Array
from atrous.errors import AtrousError


def unary_from_labels(labels: Any, n_labels: int, gt_prob: float, zero_unsure: bool = True) -> Array:
    """Convert labels to energies (n_labels, pixels) float32: -log gt_prob for a pixel's label, the rest shared equally.

    With `zero_unsure`, label 0 means unknown (all classes alike) and does not count among the `n_labels`, which then
    are 1..n_labels.

    Raises: `AtrousError` for a label out of range, which the original lets wrap around or fail on.
    """
    if not 0 < gt_prob < 1:
        raise AtrousError(f"`gt_prob` must be in (0,1), found {gt_prob}.")
    array = np.asarray(labels).astype(np.int64).ravel()
    index = array - 1 if zero_unsure else array
    if array.size and (array.min() < 0 or index.max() >= n_labels):
        raise AtrousError(
            f"labels lie in {array.min()}..{array.max()}, expected {'1' if zero_unsure else '0'}.."
            f"{n_labels if zero_unsure else n_labels - 1}{' or 0 where unsure' if zero_unsure else ''}."
        )
    others = (1 - gt_prob) / (n_labels - 1) if n_labels > 1 else gt_prob
    energies = np.full((n_labels, array.size), -np.log(others), np.float32)
    energies[index, np.arange(array.size)] = -np.log(gt_prob)
    if zero_unsure:
        energies[:, array == 0] = -np.log(1 / n_labels)
    return energies


def unary_from_softmax(sm: Any, scale: float | None = None, clip: float | None = 1e-5) -> Array:
    """Convert probabilities, classes first, to energies (classes, pixels) float32: -log, clipped from below at `clip`.

    `scale` in (0, 1] first mixes the probabilities with the uniform distribution: scale p + (1 - scale) / classes.
    """
    array = np.asarray(sm)
    if scale is not None:
        if not 0 < scale <= 1:
            raise AtrousError(f"`scale` needs to be in (0,1], found {scale}.")
        array = scale * array + (1 - scale) / len(array)
    if clip is not None:
        array = np.clip(array, clip, 1.0)
    return np.asarray(-np.log(array).reshape(len(array), -1).astype(np.float32))


def compute_unary(labels: Any, M: int, GT_PROB: float = 0.5) -> Array:
    """Call `unary_from_labels` by the original's deprecated name."""
    warnings.warn("compute_unary is deprecated, use unary_from_labels instead", DeprecationWarning, stacklevel=2)
    return unary_from_labels(labels, M, GT_PROB)


def softmax_to_unary(sm: Any, GT_PROB: float = 1) -> Array:
    """Call `unary_from_softmax`, without clipping, by the original's deprecated name."""
    warnings.warn("softmax_to_unary is deprecated, use unary_from_softmax instead", DeprecationWarning, stacklevel=2)
    return unary_from_softmax(sm, None if GT_PROB == 1 else GT_PROB, clip=None)


def _scaled_mesh(sdims: Sequence[float], shape: Sequence[int]) -> Array:
    if len(sdims) != len(shape) or not all(np.isfinite(sigma) and sigma > 0 for sigma in sdims):
        raise AtrousError(f"sdims must be positive numbers, one for each of {len(shape)} axes, found {tuple(sdims)}.")
    mesh = np.array(np.meshgrid(*(range(s) for s in shape), indexing="ij"), dtype=np.float32)
    for axis, sigma in enumerate(sdims):
        mesh[axis] /= sigma
    return mesh


def create_pairwise_gaussian(sdims: Sequence[float], shape: Sequence[int]) -> Array:
    """Compute positions over `sdims`, one per axis of `shape`: (axes, points).

    Raises: `AtrousError` for deviations that are not positive.
    """
    return _scaled_mesh(sdims, shape).reshape(len(sdims), -1)


def create_pairwise_bilateral(sdims: Sequence[float], schan: Any, img: Any, chdim: int = -1) -> Array:
    """Compute positions over `sdims` and channels over `schan`, a number or one each: (axes + channels, points).

    `chdim` is the axis of the channels in `img`, -1 when it has none.

    Raises: `AtrousError` for deviations that are not positive.
    """
    array = np.asarray(img)
    channels = array[None] if chdim == -1 else np.moveaxis(array, chdim, 0)
    scale = np.asarray(schan, np.float32).reshape(-1, *[1] * (channels.ndim - 1))
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise AtrousError(f"schan must be positive, found {schan}.")
    features = np.concatenate([_scaled_mesh(sdims, channels.shape[1:]), channels.astype(np.float32) / scale])
    return features.reshape(len(features), -1)
