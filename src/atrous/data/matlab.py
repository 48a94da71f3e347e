"""Read label maps from MATLAB files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atrous.data.dataset import Item
from atrous.data.matlab_file import MatlabError, MissingError, read_matrix
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
    Raises: `AtrousError` for a file that is missing, damaged or without this matrix.
    """
    if not path.is_file():
        raise AtrousError(f"{path}: no such file. Unpack the data set again.")
    try:
        values = read_matrix(path.read_bytes(), field)
    except MissingError as error:
        raise AtrousError(
            f"{path}: this file contains no {'.'.join(field)}. Check that it belongs to this data set."
        ) from error
    except (MatlabError, OSError) as error:
        raise AtrousError(f"{path}: not a MATLAB file, or a damaged one ({error}). Download it again.") from error
    if values.ndim != 2 or values.dtype.kind not in "ui" or values.size == 0 or not 0 <= values.min() <= 65535:
        raise AtrousError(
            f"{path}: {'.'.join(field)} is {values.dtype} of shape {values.shape}; expected a matrix of integers from "
            "0 to 65535. Check that it belongs to this data set."
        )
    return values.astype(np.uint8 if values.max() < 256 else np.uint16)
