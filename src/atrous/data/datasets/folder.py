"""Your own data: a folder of images, a folder of masks, and `classes.yaml`, which describes them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

from atrous.data.classes_yaml import FILE, FolderConfig, read_classes_yaml
from atrous.data.dataset import DATASETS, Item, SegmentationDataset
from atrous.data.instances import InstanceReader
from atrous.data.layout import (
    MASK_SUFFIXES,
    check_choice,
    files_by_name,
    first_existing,
    list_files,
    read_lines,
    relative_name,
)
from atrous.errors import AtrousError
from atrous.files import writing
from atrous.imaging.io import IMAGE_SUFFIXES
from atrous.imaging.labels import Color, MaskReader, read_raw_mask

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "JPEGImages")
MASK_FOLDERS = ("masks", "mask", "labels", "annotations", "gt", "SegmentationClass")
MASK_ENDINGS = ("", "_mask", "_masks", "_label", "_labels", "_labelIds", "_gt", "_seg", "_L")
"""Endings that may follow the name of an image in the name of its mask; the one with the most pairs is used."""
SPLIT_NAMES = ("train", "val", "test")
DRAWN_SPLITS = "splits: {train: 0.8, val: 0.2}"
MIN_IMAGES_TO_SPLIT = 5
"""The number of images from which a fifth is drawn for validation."""
ADVICE = f"Assign it to a class in {FILE} with `values: [...]`, or ignore it with `ignore: [...]`."

log = logging.getLogger("atrous")


@DATASETS.register("folder", None)
def folder(*, root: Path, split: str = "", classes: str = FILE) -> SegmentationDataset:
    """Your own folder of images, masks of any kind and `classes.yaml`; see docs/data.md.

    The default split is "train" if it exists, else all images. `classes` names another file than `classes.yaml`.
    """
    if not root.is_dir():
        raise AtrousError(f"{root}: no such folder. Check the path.")
    config = read_classes_yaml(root / classes)
    pairs, pair_errors = _pair_files(root, config)
    splits, split_errors = _splits(root, config, pairs)
    chosen = split or ("train" if "train" in splits else "all")
    check_choice(f"The folder {root}", "split", chosen, (*splits, *(("all",) if "all" not in splits else ())))
    items = tuple(pairs[name] for name in splits.get(chosen, pairs))
    if not items:
        message = f"{root}: the split '{chosen}' contains no pair of an image and a mask of the same name."
        raise AtrousError(" ".join([message, *pair_errors[:1]]))
    reader: MaskReader | InstanceReader
    if config.coding == "instances":
        reader = _instance_reader(config, str(root / classes))
    else:
        reader = _mask_reader(config, [item.mask for item in pairs.values() if item.mask], str(root / classes))
    return SegmentationDataset(
        name=root.name,
        split=chosen,
        items=items,
        classes=config.names,
        colors=config.colors,
        reader=reader,
        ignore_index=config.ignore_index,
        instances=reader.instances if isinstance(reader, InstanceReader) else None,
        splits=tuple(splits) or ("all",),
        listing_errors=(*pair_errors, *split_errors),
    )


def _pair_files(root: Path, config: FolderConfig) -> tuple[dict[str, Item], list[str]]:
    """Pair images and masks by name, and describe the files without a partner."""
    images, errors = _find_files(root, config.images, IMAGE_FOLDERS, IMAGE_SUFFIXES, config.image_ending)
    endings = MASK_ENDINGS if config.mask_ending is None else (config.mask_ending,)
    candidates = [_find_files(root, config.masks, MASK_FOLDERS, MASK_SUFFIXES, ending) for ending in endings]
    masks, mask_errors = max(candidates, key=lambda candidate: len(candidate[0].keys() & images.keys()))
    pairs = {name: Item(name, images[name], masks[name]) for name in sorted(images.keys() & masks.keys())}
    errors += mask_errors
    errors += [f"{images[name]}: the image has no mask." for name in sorted(images.keys() - masks.keys())]
    errors += [f"{masks[name]}: the mask has no image." for name in sorted(masks.keys() - images.keys())]
    return pairs, errors


def _find_files(
    root: Path, folder: str, usual_folders: tuple[str, ...], suffixes: tuple[str, ...], ending: str
) -> tuple[dict[str, Path], list[str]]:
    """Map names without `ending`, led by the split if `folder` contains {split}, to files; describe duplicate names."""
    before, marker, after = folder.partition("{split}")
    if marker:
        places = [
            (f"{p.name}/", p / after.strip("/"))
            for p in sorted(first_existing(root, before or ".").iterdir())
            if p.is_dir()
        ]
    else:
        places = [("", first_existing(root, *((folder,) if folder else usual_folders)))]
    files: dict[str, Path] = {}
    errors = []
    for prefix, place in places:
        for path in list_files(place, suffixes):
            name = prefix + relative_name(place, path)
            if not name.endswith(ending):
                continue
            name = name.removesuffix(ending)
            if name in files:
                errors.append(f"{path}: {files[name].name} has the same name without suffix; this file was left out.")
            else:
                files[name] = path
    return files, errors


def _splits(root: Path, config: FolderConfig, names: Collection[str]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """List the names in each split, and describe errors in the lists."""
    places: Mapping[str, str | float] = config.splits or _usual_splits(root, names)
    fractions = {name: value for name, value in places.items() if not isinstance(value, str)}
    if sum(fractions.values()) > 1 + 1e-9 or min(fractions.values(), default=0) < 0:
        raise AtrousError(
            f"{root / FILE}: splits: the fractions {fractions} must be positive, with a sum of at most 1."
        )
    splits: dict[str, tuple[str, ...]] = {}
    errors: list[str] = []
    for name, place in places.items():
        if isinstance(place, str) and place.endswith(".txt"):
            listed = [_listed_name(line, names) for line in read_lines(root / place)]
            errors += [
                f"{root / place}: '{entry}' is listed, but there is no pair of image and mask of this name."
                for entry in listed
                if entry not in names
            ]
            splits[name] = tuple(entry for entry in listed if entry in names)
        elif isinstance(place, str):
            splits[name] = tuple(each for each in names if each.startswith(f"{place.rstrip('/')}/"))
    assigned = {each for split in splits.values() for each in split}
    splits.update(draw_fractions([each for each in names if each not in assigned], fractions, config.seed))
    return splits, errors


def _usual_splits(root: Path, names: Collection[str]) -> dict[str, str]:
    """Find splits by lists, or else by folders, of the usual names."""
    lists = {name: f"{name}.txt" for name in SPLIT_NAMES if (root / f"{name}.txt").is_file()}
    tops = {name.partition("/")[0] for name in names if "/" in name}
    return lists or {name: name for name in SPLIT_NAMES if name in tops}


def _listed_name(line: str, names: Collection[str]) -> str:
    """Find the name in a line of a list: all of it, because names may contain spaces, or else the first word."""
    name = _without_suffix(line)
    return name if name in names else _without_suffix(line.split()[0])


def _without_suffix(entry: str) -> str:
    suffix = Path(entry).suffix.lower()
    return entry[: -len(suffix)] if suffix in (*IMAGE_SUFFIXES, *MASK_SUFFIXES) else entry


def draw_fractions(names: Iterable[str], fractions: Mapping[str, float], seed: int) -> dict[str, tuple[str, ...]]:
    """Draw names for splits at random, the same on every machine; each split keeps the order of `names`."""
    names = list(names)
    shuffled = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    drawn: dict[str, tuple[str, ...]] = {}
    share, start = 0.0, 0
    for split, fraction in fractions.items():
        share += fraction
        end = round(share * len(names))
        members = set(shuffled[start:end])
        drawn[split] = tuple(name for name in names if name in members)
        start = end
    return drawn


def _instance_reader(config: FolderConfig, source: str) -> InstanceReader:
    if len(config.classes) != 2 or any(entry.values is not None for entry in config.classes):
        raise AtrousError(
            f"{source}: `coding: instances` needs two classes without `values`, the background and the objects."
        )
    ignored = config.ignore if "ignore" in config.model_fields_set else ()  # else 255 is the number of an object
    return InstanceReader(tuple(value for value in ignored if isinstance(value, int)), config.ignore_index)


def _mask_reader(config: FolderConfig, masks: list[Path], source: str) -> MaskReader:
    values: dict[int, int] = {}
    colors: dict[Color, int] = {}
    ambiguous = False
    for label, entry in enumerate(config.classes):
        for value in (label,) if entry.values is None else entry.values:
            if value in values:
                raise AtrousError(
                    f"{source}: the value {value} belongs to both '{config.names[values[value]]}' and '{entry.name}'; "
                    "assign it to one class."
                )
            values[value] = label
        if entry.color is not None:
            ambiguous |= entry.color in colors
            colors[entry.color] = label
    complete = not ambiguous and all(entry.color is not None for entry in config.classes)
    if config.coding == "color" and not complete:
        raise AtrousError(f"{source}: `coding: color` needs a different color for every class; add the missing ones.")
    nothing_said = "ignore" not in config.model_fields_set and all(entry.values is None for entry in config.classes)
    if nothing_said and len(values) == 2 and _black_and_white(masks):
        values = {0: 0, 255: 1}
        _announce_black_and_white(source, config.names)
    for ignored in config.ignore:
        if isinstance(ignored, int):
            values.setdefault(ignored, config.ignore_index)
        else:
            colors.setdefault(ignored, config.ignore_index)
    return MaskReader(
        config.names,
        config.ignore_index,
        values=values,
        colors=colors if complete else None,
        by_color=config.coding == "color",
        advice=ADVICE,
    )


def _black_and_white(masks: list[Path]) -> bool:
    """Check whether all masks hold 0 and 255 alone, so that 255, which would be ignored, is the second class."""
    white = False
    with ThreadPoolExecutor() as pool:
        try:
            for values in pool.map(_stored_values, masks):
                if not values <= {0, 255}:
                    return False
                white = white or 255 in values
        finally:
            pool.shutdown(cancel_futures=True)
    return white


def _stored_values(mask: Path) -> set[int]:
    """The values of a mask; none if it is not readable, which is reported when it is read."""
    try:
        return set(np.unique(read_raw_mask(mask)).tolist())
    except AtrousError:
        return set()


@cache  # said once in a process, however often the splits are opened
def _announce_black_and_white(source: str, names: tuple[str, ...]) -> None:
    log.warning(
        "%s: all masks hold 0 and 255 alone, so 0 is taken for '%s' and 255 for '%s'. Say so with `values: [0]` and "
        "`values: [255]`, or `ignore: [255]` if 255 marks ignored pixels.",
        source,
        *names,
    )


def write_classes_yaml(root: Path) -> Path:
    """Write a `classes.yaml` for the values in the masks of a folder, with placeholders for the names of the classes.

    Returns: its path.
    Raises: `AtrousError` if the file exists, or a mask is not readable.
    """
    path = root / FILE
    if path.exists():
        raise AtrousError(f"{path} exists already and was not changed. Edit it, or remove it first.")
    folder = first_existing(root, *MASK_FOLDERS)
    masks = files_by_name(folder, MASK_SUFFIXES)
    if not masks:
        raise AtrousError(f"{folder}: this folder contains no masks ({', '.join(MASK_SUFFIXES)}). Put them there.")
    values: set[int] = set()
    colors: set[Color] = set()
    for mask in masks.values():
        stored = read_raw_mask(mask)
        if stored.ndim == 3 and not (stored == stored[..., :1]).all():
            colors |= {(int(r), int(g), int(b)) for r, g, b in np.unique(stored.reshape(-1, 3), axis=0)}
        else:
            values |= set(np.unique(stored).tolist())
    lines = ["# Name the classes; docs/data.md describes all keys.", "classes:"]
    if colors:
        lines += [f"  - {{name: class_{i}, color: [{r}, {g}, {b}]}}" for i, (r, g, b) in enumerate(sorted(colors))]
    elif values <= {0, 255}:
        lines += ["  - {name: background, values: [0]}", "  - {name: foreground, values: [255]}"]
    else:
        lines += [f"  - {{name: class_{value}, values: [{value}]}}" for value in sorted(values - {255})]
    if len(masks) >= MIN_IMAGES_TO_SPLIT and not _usual_splits(root, tuple(masks)):
        lines += ["# Drawn at random, always the same; lists (train.txt, val.txt) or folders are better.", DRAWN_SPLITS]
    with writing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", "utf-8")
    return path
