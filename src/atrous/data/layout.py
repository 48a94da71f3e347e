"""Finding one's way in the folders of a data set, and saying what is missing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from atrous.data.dataset import Item
from atrous.errors import AtrousError, did_you_mean
from atrous.imaging.io import IMAGE_SUFFIXES

MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")
"""What is taken for a mask; JPEG too, so that it is refused with a reason."""


def descend(root: Path, *inner: str, holding: str) -> Path:
    """`root`, or the first of its `inner` folders that holds `holding`: archives unpack to various depths.

    Raises: `AtrousError` where none does.
    """
    for folder in (root, *(root / name for name in inner)):
        if (folder / holding).exists():
            return folder
    raise AtrousError(_missing(root, [holding, *(f"{name}/{holding}" for name in inner)]))


def first_of(root: Path, *candidates: str) -> Path:
    """The first of the `candidates` below `root` that exists.

    Raises: `AtrousError` where none does.
    """
    for candidate in candidates:
        if (root / candidate).exists():
            return root / candidate
    raise AtrousError(_missing(root, candidates))


def _missing(root: Path, expected: Iterable[str]) -> str:
    if not root.is_dir():
        near = did_you_mean(root.name, [p.name for p in root.parent.glob("*")] if root.parent.is_dir() else [])
        return f"{root}: there is no such folder.{near}"
    holds = sorted(p.name + "/" * p.is_dir() for p in root.iterdir())
    listed = ", ".join(holds[:8]) + (", ..." if len(holds) > 8 else "")
    return (
        f"{root}: expected {' or '.join(expected)} in it, but it holds {listed or 'nothing'}. Is it the right folder?"
    )


def existing(root: Path, splits: Iterable[str], place: str) -> tuple[str, ...]:
    """Those of the `splits` whose list or folder exists; `place` is its path below `root`, with {} for the split."""
    return tuple(split for split in splits if (root / place.format(split)).exists())


def check_choice(name: str, what: str, given: str, known: Iterable[str]) -> None:
    """Raise `AtrousError` unless `given`, for example the split of data set `name`, is one of those known."""
    known = list(known)
    if given not in known:
        raise AtrousError(
            f"{name} has no {what} '{given}'.{did_you_mean(given, known)} There are: {', '.join(known) or 'none'}."
        )


def read_list(path: Path) -> list[str]:
    """The first word of each line of a list; empty lines are left out.

    Raises: `AtrousError` for a list that is missing, empty, or no text.
    """
    if not path.is_file():
        others = sorted(p.stem for p in path.parent.glob("*.txt")) if path.parent.is_dir() else []
        there = f" There are the lists {', '.join(others)}." if others else ""
        raise AtrousError(f"{path}: there is no such list.{did_you_mean(path.stem, others)}{there}")
    try:
        lines = [line.split() for line in path.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise AtrousError(f"{path}: a list of names is expected, but it is no text ({error.reason}).") from error
    names = [words[0] for words in lines if words]
    if not names:
        raise AtrousError(f"{path}: the list is empty.")
    return names


def files_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files below a folder, at any depth, hidden ones left out, in alphabetical order."""
    found = (p for p in folder.rglob("*") if p.suffix.lower() in suffixes and not p.name.startswith("."))
    return sorted(p for p in found if p.is_file())


def name_in(folder: Path, path: Path) -> str:
    """The path within a folder, without suffix and with forward slashes: how lists name a file."""
    return path.relative_to(folder).with_suffix("").as_posix()


def files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The files below a folder by their names, see `name_in`."""
    return {name_in(folder, path): path for path in files_in(folder, suffixes)}


def pair(names: Iterable[str], images: Path, masks: Path, *, image: str = ".jpg", mask: str = ".png") -> list[Item]:
    """Items of names in a list and the two folders they lie in; the files are not looked for before they are read."""
    return [Item(name, images / f"{name}{image}", masks / f"{name}{mask}") for name in names]


def pair_folders(images: Path, masks: Path, *, prefix: str = "") -> list[Item]:
    """Items of all masks in a folder, as far as their names begin with `prefix`, and the images of the same names.

    Raises: `AtrousError` where there is none.
    """
    pictures = files_by_stem(images, IMAGE_SUFFIXES if images != masks else (".jpg", ".jpeg"))
    found = {name: path for name, path in files_by_stem(masks, (".png", ".mat")).items() if name.startswith(prefix)}
    if not found:
        raise AtrousError(f"{masks}: the folder holds no masks{f' named {prefix}*' if prefix else ''}.")
    return [Item(name, pictures.get(name, images / f"{name}.jpg"), path) for name, path in found.items()]


def listed_or_all(
    name: str, split: str, folder: Path, lists: Iterable[str], images: Path, masks: Path, *, mask: str = ".png"
) -> tuple[list[Item], tuple[str, ...]]:
    """Items of one split, and the splits there are, for data sets whose lists lie in one of the folders `lists`.

    The split "all" is every mask there is, without a list.
    Raises: `AtrousError` for a split that is not there.
    """
    place = next((folder / each for each in lists if (folder / each / "train.txt").is_file()), None)
    splits = existing(place, ("train", "val"), "{}.txt") if place else ()
    check_choice(name, "split", split, (*splits, "all"))
    if split == "all" or place is None:
        return pair_folders(images, masks), splits or ("all",)
    return pair(read_list(place / f"{split}.txt"), images, masks, mask=mask), splits
