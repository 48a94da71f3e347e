"""What `dense_crf` accepts, checked before anything is computed; nothing is transposed or rescaled by guess."""

from __future__ import annotations

from typing import Any

import numpy as np

from atrous.crf.numba_backend.lattice import Array
from atrous.errors import AtrousError


def as_numpy(name: str, value: Any) -> Array:
    """An array, or a torch tensor without gradient, as numpy; no copy where none is needed.

    *Raises:* `AtrousError` for a tensor that carries a gradient.
    """
    if hasattr(value, "detach"):
        if value.requires_grad:
            raise AtrousError(
                f"{name} carries a gradient, which dense_crf would drop: pass {name}.detach(), or use CRFRNN to train"
            )
        value = value.cpu().numpy()
    return np.asarray(value)


def checked_image(image: Any) -> Array:
    """The image as (H, W, 3) uint8 view.

    *Raises:* `AtrousError` unless it is uint8, (H, W, 3) or (3, H, W), H and W at least 1.
    """
    found = as_numpy("image", image)
    if found.dtype != np.uint8:
        raise AtrousError(f"image is {found.dtype}, expected uint8 in 0..255: undo the normalization and convert it")
    if found.ndim != 3 or 3 not in (found.shape[0], found.shape[2]):
        raise AtrousError(f"image has shape {found.shape}, expected (H, W, 3) or (3, H, W)")
    if 0 in found.shape:
        raise AtrousError(f"image has shape {found.shape}, with a side of length 0; expected at least one pixel")
    return found if found.shape[2] == 3 else found.transpose(1, 2, 0)


def oriented_image(image: Any, size: tuple[int, int]) -> Array:
    """`checked_image`, told which of the two layouts is meant, by the size of the probabilities, where both fit."""
    found = checked_image(image)
    given = as_numpy("image", image)
    if given.shape[0] == given.shape[2] == 3 and given.shape[:2] != size and given.shape[1:] == size:
        found = given.transpose(1, 2, 0)
    if found.shape[:2] != size:
        height, width = found.shape[:2]
        swapped = " (height and width are swapped: transpose one of them)" if (width, height) == size else ""
        raise AtrousError(
            f"image is {height} high and {width} wide, the class maps {size[0]} high and {size[1]} wide{swapped}; "
            "they must be the same, resize the probabilities to the image"
        )
    return found


def checked_maps(name: str, maps: Any) -> Array:
    """Class maps (K, H, W) as float32, C-contiguous. float64 is accepted and computed in float32.

    *Raises:* `AtrousError` for other shapes or types, zero sizes, or NaN.
    """
    found = as_numpy(name, maps)
    if found.dtype not in (np.float16, np.float32, np.float64):
        raise AtrousError(f"{name} is {found.dtype}, expected floating point (computed in float32)")
    if found.ndim != 3:
        raise AtrousError(f"{name} has shape {found.shape}, expected (K, H, W): classes, height, width")
    if 0 in found.shape:
        raise AtrousError(
            f"{name} has shape {found.shape}, length 0 on axis {found.shape.index(0)}; expected at least 1 on each"
        )
    found = np.ascontiguousarray(found, np.float32)
    if np.isnan(found.sum()):  # one pass, no temporary; infinities of both signs are caught as well
        where = np.unravel_index(int(np.isnan(found).argmax()), found.shape)
        raise AtrousError(
            f"{name} holds NaN, the first at class {where[0]}, row {where[1]}, column {where[2]}; expected numbers"
        )
    return found


def checked_probabilities(probabilities: Any) -> Array:
    """Probabilities (K, H, W), summing to 1 over axis 0.

    *Raises:* `AtrousError` as `checked_maps`, and for values outside 0..1 or sums that are not 1 within 1e-3; the
    message tells when another axis does sum to 1.
    """
    found = checked_maps("probabilities", probabilities)
    low, high = found.min(), found.max()
    if low < -1e-6 or high > 1 + 1e-3:
        raise AtrousError(
            f"probabilities lie in {low:.4g}..{high:.4g}, expected 0..1: apply a soft-max to logits over axis 0 first"
        )
    if np.abs(found.sum(0) - 1).max() > 1e-3:
        sums = found.sum(0)
        worst = np.unravel_index(int(np.abs(sums - 1).argmax()), sums.shape)
        other = [axis for axis in (1, 2) if np.abs(found.sum(axis) - 1).max() <= 1e-3]
        hint = f"; they do over axis {other[0]}: move that axis to the front" if other else ""
        raise AtrousError(
            f"probabilities must sum to 1 over axis 0, the classes, but sum to {sums[worst]:.4g} at row {worst[0]}, "
            f"column {worst[1]}{hint}"
        )
    return found


def checked_mask(name: str, mask: Any, size: tuple[int, int]) -> Array:
    """A boolean (H, W).

    *Raises:* `AtrousError` for another type or size.
    """
    found = as_numpy(name, mask)
    if found.dtype != np.bool_ or found.shape != size:
        raise AtrousError(f"{name} is {found.dtype} of shape {found.shape}, expected bool of shape {size}")
    return found
