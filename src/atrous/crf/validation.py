"""Checks of everything that `dense_crf` accepts, before any computation; nothing is transposed or rescaled by guess."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from atrous.errors import AtrousError

Array = npt.NDArray[Any]


def as_numpy(name: str, value: Any) -> Array:
    """Convert an array, or a torch tensor without gradient, to numpy; without a copy where possible.

    Raises: `AtrousError` for a tensor that requires a gradient.
    """
    if hasattr(value, "detach"):
        if value.requires_grad:
            raise AtrousError(
                f"{name} carries a gradient, which dense_crf would drop: pass {name}.detach(), or use CRFRNN to train."
            )
        value = value.cpu().numpy()
    return np.asarray(value)


def checked_image(image: Any) -> Array:
    """Return the image as a view (H, W, 3) uint8.

    Raises: `AtrousError` unless it is uint8, (H, W, 3) or (3, H, W), H and W at least 1.
    """
    array = as_numpy("image", image)
    if array.dtype != np.uint8:
        raise AtrousError(f"image is {array.dtype}, expected uint8 in 0..255: undo the normalization and convert it.")
    if array.ndim != 3 or 3 not in (array.shape[0], array.shape[2]):
        raise AtrousError(f"image has shape {array.shape}, expected (H, W, 3) or (3, H, W).")
    if 0 in array.shape:
        raise AtrousError(f"image has shape {array.shape}, with a side of length 0; expected at least one pixel.")
    return array if array.shape[2] == 3 else array.transpose(1, 2, 0)


def oriented_image(image: Any, size: tuple[int, int]) -> Array:
    """Return `checked_image` in the layout that has this size (H, W), where both layouts are possible.

    Raises: `AtrousError` as `checked_image`, and for an image of another size.
    """
    oriented = checked_image(image)
    array = as_numpy("image", image)
    if array.shape[0] == array.shape[2] == 3 and array.shape[:2] != size and array.shape[1:] == size:
        oriented = array.transpose(1, 2, 0)
    if oriented.shape[:2] != size:
        height, width = oriented.shape[:2]
        swapped = " (height and width are swapped: transpose one of them)" if (width, height) == size else ""
        raise AtrousError(
            f"image is {height} high and {width} wide, the class maps {size[0]} high and {size[1]} wide{swapped}; "
            "they must be the same: resize the probabilities to the image."
        )
    return oriented


def checked_maps(name: str, maps: Any) -> Array:
    """Return class maps (K, H, W) as float32, C-contiguous. float64 is accepted and computed in float32.

    Raises: `AtrousError` for other shapes or types, zero sizes, or NaN.
    """
    array = as_numpy(name, maps)
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise AtrousError(f"{name} is {array.dtype}, expected floating point (computed in float32).")
    if array.ndim != 3:
        raise AtrousError(f"{name} has shape {array.shape}, expected (K, H, W): classes, height, width.")
    if 0 in array.shape:
        raise AtrousError(
            f"{name} has shape {array.shape}, length 0 on axis {array.shape.index(0)}; expected at least 1 on each."
        )
    array = np.ascontiguousarray(array, np.float32)
    if np.isnan(array.sum()):  # one pass, no temporary; infinities of both signs are caught as well
        where = np.unravel_index(int(np.isnan(array).argmax()), array.shape)
        raise AtrousError(
            f"{name} holds NaN, the first at class {where[0]}, row {where[1]}, column {where[2]}; expected numbers."
        )
    return array


def checked_probabilities(probabilities: Any) -> Array:
    """Return probabilities (K, H, W), summing to 1 over axis 0, as `checked_maps`.

    Raises: `AtrousError` as `checked_maps`, and for values outside 0..1 or sums that are not 1 within 1e-3; the
    message names another axis that does sum to 1.
    """
    array = checked_maps("probabilities", probabilities)
    low, high = array.min(), array.max()
    if low < -1e-6 or high > 1 + 1e-3:
        raise AtrousError(
            f"probabilities lie in {low:.4g}..{high:.4g}, expected 0..1: apply a softmax to logits over axis 0 first."
        )
    if np.abs(array.sum(0) - 1).max() > 1e-3:
        sums = array.sum(0)
        worst = np.unravel_index(int(np.abs(sums - 1).argmax()), sums.shape)
        other = [axis for axis in (1, 2) if np.abs(array.sum(axis) - 1).max() <= 1e-3]
        hint = f"; they do over axis {other[0]}: move that axis to the front" if other else ""
        raise AtrousError(
            f"probabilities must sum to 1 over axis 0, the classes, but sum to {sums[worst]:.4g} at row {worst[0]}, "
            f"column {worst[1]}{hint}."
        )
    return array


def checked_mask(name: str, mask: Any, size: tuple[int, int]) -> Array:
    """Return a boolean mask (H, W).

    Raises: `AtrousError` for another type or size.
    """
    array = as_numpy(name, mask)
    if array.dtype != np.bool_ or array.shape != size:
        raise AtrousError(f"{name} is {array.dtype} of shape {array.shape}, expected bool of shape {size}.")
    return array


def checked_features(features: Any) -> npt.NDArray[np.float32]:
    """Return features (points, d) as float32, C-contiguous.

    Raises: `AtrousError` unless they are of shape (points, d) with at least one of each.
    """
    array = np.ascontiguousarray(features, np.float32)
    if array.ndim != 2 or 0 in array.shape:
        raise AtrousError(f"features must have shape (points, d) with at least one of each, found {array.shape}.")
    return array
