"""Encode class probabilities as an archive of NumPy arrays, and read them."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError, describe_unexpected
from atrous.imaging.archives import ArchiveError, read_arrays, read_npy
from atrous.marks import Mark


class ClassProbabilities(NamedTuple):
    """Class probabilities with the names and colors of the classes.

    Shape: `maps` (K, H, W) float32, summing to 1 over axis 0.
    """

    maps: NDArray[np.floating]
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]


def encode_probabilities(probabilities: ClassProbabilities, mark: Mark) -> bytes:
    """Encode probabilities as 16-bit floats in a compressed .npz, with the arrays `probabilities, classes, colors`."""
    maps, classes = probabilities.maps.astype(np.float16), np.array(probabilities.classes)
    colors = np.array(probabilities.colors, np.uint8)
    content = io.BytesIO()
    np.savez_compressed(content, probabilities=maps, classes=classes, colors=colors)
    with zipfile.ZipFile(content, "a") as archive:
        archive.comment = str(mark).encode()
    return content.getvalue()


def read_probabilities(path: str | os.PathLike[str]) -> ClassProbabilities:
    """Read probabilities that `encode_probabilities` wrote, and correct their sums, which 16 bits have rounded.

    Raises: `AtrousError` for a file that is missing, damaged, or holds other arrays.
    """
    path = Path(path)
    try:
        stored, names, stored_colors = read_arrays(path, "probabilities", "classes", "colors")
        maps, classes, colors = stored.astype(np.float32), names.tolist(), stored_colors.tolist()
        if maps.ndim != 3 or len(classes) != len(maps) or np.shape(colors) != (len(maps), 3):
            raise ValueError(f"probabilities of shape {maps.shape}, {len(classes)} classes")
    except FileNotFoundError as error:
        raise AtrousError(f"{path}: no such file. Write it with atrous predict --probabilities.") from error
    except MemoryError as error:
        raise AtrousError(f"{path}: the probabilities do not fit into memory. Use a smaller image.") from error
    except (ValueError, TypeError, OSError) as error:  # names and colors of another kind, too
        raise AtrousError(
            f"{path}: not a complete .npz of probabilities, classes and colors ({describe_unexpected(error)}). "
            "Write it with atrous predict --probabilities."
        ) from error
    sums = maps.sum(0)
    if np.abs(sums - 1).max(initial=0) < 0.01:  # only rounding; what is wrong stays wrong, for others to see
        maps /= sums
    return ClassProbabilities(maps, tuple(map(str, classes)), tuple((r, g, b) for r, g, b in colors))


def read_array(path: Path) -> NDArray[np.floating]:
    """Read probabilities that NumPy saved, a .npy file.

    Shape: -> (K, H, W).
    Raises: `AtrousError` for a file that is missing or damaged.
    """
    if not path.is_file():
        raise AtrousError(f"{path}: no such file; save the probabilities of a network with numpy.save.")
    try:
        return read_npy(path)  # type: ignore[return-value]  # the type of the numbers is checked by the CRF
    except MemoryError as error:
        raise AtrousError(f"{path}: the probabilities do not fit into memory. Use a smaller image.") from error
    except ArchiveError as error:
        raise AtrousError(f"{path}: not a complete .npy file of numbers ({error}). Save it with numpy.save.") from error
