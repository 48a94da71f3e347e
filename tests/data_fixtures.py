"""Small data sets in the official layouts, and a folder of your own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Write = Callable[..., Path]


def photograph(seed: int, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    """Make an image of noise from a seed."""
    return np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)


def write_mat(path: Path, labels: np.ndarray) -> None:
    """Write labels as SBD does: a struct GTcls with cells of sparse boundaries, the matrix, and its categories."""
    from scipy.io import savemat
    from scipy.sparse import csc_matrix

    path.parent.mkdir(parents=True, exist_ok=True)
    boundaries = np.empty((20, 1), object)
    boundaries[:, 0] = [csc_matrix(labels == label, dtype=float) for label in range(1, 21)]
    present = np.unique(labels[labels > 0])[:, None]
    fields = {"Boundaries": boundaries, "Segmentation": labels, "CategoriesPresent": present}
    savemat(path, {"GTcls": fields}, do_compression=True)


@pytest.fixture
def write() -> Write:
    """Return a function that writes an array, text or bytes to a file and creates its folders."""

    def write(path: Path, content: np.ndarray | bytes | str, **options: object) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, np.ndarray):
            Image.fromarray(content).save(path, **options)
        elif isinstance(content, str):
            path.write_text(content)
        else:
            path.write_bytes(content)
        return path

    return write


@pytest.fixture
def own(tmp_path: Path, write: Write) -> Path:
    """Six images and masks of three classes, a third for validation."""
    root = tmp_path / "own"
    for number in range(6):
        write(root / "images" / f"{number}.jpg", photograph(number))
        labels = np.full((24, 32), number % 3, np.uint8)
        labels[:4] = 255
        labels[4:8] = 1
        write(root / "masks" / f"{number}.png", labels)
    write(root / "classes.yaml", "classes: [background, road, tree]\nsplits: {train: train.txt, val: val.txt}\n")
    write(root / "train.txt", "0\n1\n2\n3\n")
    write(root / "val.txt", "4.jpg\n\n5.jpg\n")
    return root
