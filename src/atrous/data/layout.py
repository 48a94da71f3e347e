"""Find the files of a data set in its folders, and report what is missing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from atrous.data.dataset import Item
from atrous.errors import AtrousError, did_you_mean
from atrous.imaging.io import IMAGE_SUFFIXES

MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")
"""The suffixes of the files that count as masks; JPEG too, so that the error about it is a clear one."""


def find_root(root: Path, *inner: str, containing: str) -> Path:
    """Find the folder that contains `containing`: `root` or one of its `inner` folders, as archives unpack differently.

    Raises: `AtrousError` if none of them does.
    """
    for folder in (root, *(root / name for name in inner)):
        if os.path.exists(folder / containing):  # unlike Path.exists, False for names that no file can have
            return folder
    raise AtrousError(_missing(root, [containing, *(f"{name}/{containing}" for name in inner)]))


def first_existing(root: Path, *candidates: str) -> Path:
    """Find the first of the `candidates` below `root` that exists.

    Raises: `AtrousError` if none does.
    """
    for candidate in candidates:
        if os.path.exists(root / candidate):
            return root / candidate
    raise AtrousError(_missing(root, candidates))


def _missing(root: Path, expected: Iterable[str]) -> str:
    if not root.is_dir():
        near = did_you_mean(root.name, [p.name for p in root.parent.glob("*")] if root.parent.is_dir() else [])
        return f"{root}: no such folder.{near or ' Check the path.'}"
    content = sorted(p.name + "/" * p.is_dir() for p in root.iterdir())
    listed = ", ".join(content[:8]) + (", ..." if len(content) > 8 else "")
    return (
        f"{root}: expected {' or '.join(expected)} in this folder, but it contains {listed or 'nothing'}. Check "
        "that this is the right folder and that all archives are unpacked."
    )


def existing_splits(root: Path, splits: Iterable[str], place: str) -> tuple[str, ...]:
    """Select the `splits` whose list or folder exists; `place` is its path below `root`, with {} for the split."""
    return tuple(split for split in splits if os.path.exists(root / place.format(split)))


def check_choice(name: str, kind: str, value: str, known: Iterable[str]) -> None:
    """Raise `AtrousError` unless `value`, for example the split of data set `name`, is one of those known."""
    known = list(known)
    if value not in known:
        raise AtrousError(
            f"{name} has no {kind} '{value}'.{did_you_mean(value, known)} Choose from: {', '.join(known) or 'none'}."
        )


def read_list(path: Path) -> list[str]:
    """Read the first word of each line of a list of names, without empty lines.

    Raises: `AtrousError` as `read_lines`.
    """
    return [line.split()[0] for line in read_lines(path)]


def read_lines(path: Path) -> list[str]:
    """Read the lines of a list of names, without empty ones and spaces around them.

    Raises: `AtrousError` for a list that is missing, empty or not text.
    """
    if not os.path.isfile(path):
        others = sorted(p.stem for p in path.parent.glob("*.txt")) if path.parent.is_dir() else []
        existing = f" Lists in this folder: {', '.join(others)}." if others else ""
        raise AtrousError(f"{path}: no such list.{did_you_mean(path.stem, others)}{existing or ' Check the path.'}")
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise AtrousError(
            f"{path}: not a text file ({error.reason}); expected a list with one name per line, in UTF-8."
        ) from error
    lines = [line for line in lines if line]
    if not lines:
        raise AtrousError(f"{path}: the list is empty; expected one name per line.")
    return lines


def list_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """List the files below a folder at any depth in alphabetical order, without hidden files."""
    paths = (p for p in folder.rglob("*") if p.suffix.lower() in suffixes and not p.name.startswith("."))
    return sorted(p for p in paths if p.is_file())


def relative_name(folder: Path, path: Path) -> str:
    """Name a file as lists do: the path within a folder, without suffix and with forward slashes."""
    return path.relative_to(folder).with_suffix("").as_posix()


def files_by_name(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Map the names of the files below a folder, see `relative_name`, to their paths."""
    return {relative_name(folder, path): path for path in list_files(folder, suffixes)}


def pair_names(
    names: Iterable[str], images: Path, masks: Path, *, image_suffix: str = ".jpg", mask_suffix: str = ".png"
) -> list[Item]:
    """Make items from the names of a list and the folders of images and masks; the files are not checked here."""
    return [Item(name, images / f"{name}{image_suffix}", masks / f"{name}{mask_suffix}") for name in names]


def in_collection(collection: str, items: Iterable[Item]) -> tuple[Item, ...]:
    """Identify images by the names that are unique in their collection, so that other data sets can share them."""
    return tuple(replace(item, image_id=f"{collection}/{item.name}") for item in items)


def pair_folders(images: Path, masks: Path, *, prefix: str = "") -> list[Item]:
    """Make items from all masks in a folder whose names begin with `prefix`, and the images of the same names.

    Raises: `AtrousError` if there is no such mask.
    """
    image_files = files_by_name(images, IMAGE_SUFFIXES if images != masks else (".jpg", ".jpeg"))
    mask_files = {
        name: path for name, path in files_by_name(masks, (".png", ".mat")).items() if name.startswith(prefix)
    }
    if not mask_files:
        raise AtrousError(
            f"{masks}: this folder contains no masks{f' named {prefix}*' if prefix else ''}; expected .png or .mat "
            "files. Unpack the masks of the data set there."
        )
    return [Item(name, image_files.get(name, images / f"{name}.jpg"), path) for name, path in mask_files.items()]


def items_of_split(
    name: str, split: str, folder: Path, lists: Iterable[str], images: Path, masks: Path, *, mask_suffix: str = ".png"
) -> tuple[list[Item], tuple[str, ...]]:
    """Make the items of one split, for data sets whose lists are in one of the folders `lists`.

    The split "all" is every existing mask, without a list.
    Returns: the items, and the names of the existing splits.
    Raises: `AtrousError` for a split that does not exist.
    """
    place = next((folder / each for each in lists if (folder / each / "train.txt").is_file()), None)
    splits = existing_splits(place, ("train", "val"), "{}.txt") if place else ()
    check_choice(name, "split", split, (*splits, "all"))
    if split == "all" or place is None:
        return pair_folders(images, masks), splits or ("all",)
    return pair_names(read_list(place / f"{split}.txt"), images, masks, mask_suffix=mask_suffix), splits
