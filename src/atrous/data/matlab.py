"""Read label maps from MATLAB files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atrous.data.dataset import Item
from atrous.errors import AtrousError
from atrous.imaging.labels import Labels, MaskReader


@dataclass(frozen=True)
class MatReader:
    """Reads labels from MATLAB files; `field` is the path to the matrix, such as `("GTcls", "Segmentation")`."""

    field: tuple[str, ...]
    masks: MaskReader

    def __call__(self, item: Item) -> Labels:
        assert item.mask is not None
        return self.masks.decode(read_mat(item.mask, self.field), item.mask)


def read_mat(path: Path, field: tuple[str, ...]) -> NDArray[Any]:
    """Read a matrix of integers from a MATLAB file.

    Shape: -> (H, W) uint8 or uint16.
    Raises: `AtrousError` for a file that is missing, damaged or without this matrix, and if SciPy is not installed.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise AtrousError("Reading .mat files needs SciPy: pip install 'atrous[data]'.") from error
    if not path.is_file():
        raise AtrousError(f"{path}: no such file. Unpack the data set again.")
    try:
        content = loadmat(path, variable_names=[field[0]], struct_as_record=False, squeeze_me=True)[field[0]]
        for name in field[1:]:
            content = getattr(content, name)
        values = np.atleast_2d(np.asarray(content))
    except (KeyError, AttributeError) as error:
        raise AtrousError(
            f"{path}: this file contains no {'.'.join(field)}. Check that it belongs to this data set."
        ) from error
    except Exception as error:  # SciPy's reader raises many kinds for damaged files
        raise AtrousError(f"{path}: not a MATLAB file, or a damaged one ({error}). Download it again.") from error
    if values.ndim != 2 or values.dtype.kind not in "ui" or values.size == 0 or not 0 <= values.min() <= 65535:
        raise AtrousError(
            f"{path}: {'.'.join(field)} is {values.dtype} of shape {values.shape}; expected a matrix of integers from "
            "0 to 65535. Check that it belongs to this data set."
        )
    return values.astype(np.uint8 if values.max() < 256 else np.uint16)
