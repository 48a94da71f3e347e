"""Own data: a folder of images, a folder of masks, and `classes.yaml`, which says what is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from atrous.data.dataset import DATASETS, Item, SegmentationDataset
from atrous.data.layout import (
    MASK_SUFFIXES,
    check_choice,
    files_by_stem,
    files_in,
    first_of,
    name_in,
    read_list,
)
from atrous.errors import AtrousError, did_you_mean
from atrous.files import writing
from atrous.imaging.io import IMAGE_SUFFIXES
from atrous.imaging.labels import Color, MaskReader, read_raw_mask, voc_color_map

FILE = "classes.yaml"
DRAWN = "splits: {train: 0.8, val: 0.2}"
ENOUGH_TO_SPLIT = 5
"""Images of which a fifth is drawn to be judged."""
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "JPEGImages")
MASK_FOLDERS = ("masks", "mask", "labels", "annotations", "gt", "SegmentationClass")
MASK_ENDINGS = ("", "_mask", "_masks", "_label", "_labels", "_labelIds", "_gt", "_seg", "_L")
"""What may follow an image's name in that of its mask; the one with which most pairs are found is taken."""
SPLIT_NAMES = ("train", "val", "test")
LOOKED_AT = 32
"""Masks looked at to find out whether two classes are stored as 0 and 255."""
ADVICE = f"Give it to a class in {FILE} with `values: [...]`, or ignore it with `ignore: [...]`."


def _color(value: Any) -> Any:
    """`#rrggbb` as three numbers; anything else is left to pydantic."""
    if isinstance(value, str) and len(value) == 7 and value.startswith("#"):
        try:
            return tuple(bytes.fromhex(value[1:]))
        except ValueError:
            return value
    return value


Byte = Annotated[int, Field(ge=0, le=255)]
Stored = Annotated[int, Field(ge=0, le=65535)]
ColorEntry = Annotated[tuple[Byte, Byte, Byte], BeforeValidator(_color)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassEntry(_Part):
    """A class: its name, the color it has in pictures and in masks in RGB, and the values masks have for it."""

    name: str = Field(min_length=1)
    color: ColorEntry | None = None
    values: tuple[Stored, ...] | None = None
    """By default, its place in the list, from 0."""


def _class_entry(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Description(_Part):
    """What `classes.yaml` holds."""

    classes: tuple[Annotated[ClassEntry, BeforeValidator(_class_entry)], ...] = Field(min_length=2)
    ignore: tuple[Stored | ColorEntry, ...] = (255,)
    """Values or colors of pixels that count for nothing."""
    ignore_index: Stored = 255
    """What they are in the labels that are read."""
    coding: Literal["auto", "color"] = "auto"
    """"color" looks at the colors of palette and gray masks too, instead of their indices."""
    images: str = ""
    masks: str = ""
    """The folders; {split} in them stands for the name of the split."""
    image_ending: str = ""
    mask_ending: str | None = None
    """What follows the common part of the names, before the suffix: `_mask` in `a.jpg`, `a_mask.png`."""
    splits: dict[str, str | float] = Field(default_factory=dict)
    """Of each split its list (`val.txt`), its folder within the folder of images, or its fraction of all."""
    seed: int = 0
    """Of the drawing of fractions."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.classes)

    @property
    def colors(self) -> tuple[Color, ...]:
        return tuple(
            entry.color or other for entry, other in zip(self.classes, voc_color_map(len(self.classes)), strict=True)
        )


def read_description(path: Path) -> Description:
    """Raises: `AtrousError` for a file that is missing, no YAML, or with entries that are wrong."""
    try:
        content = yaml.safe_load(path.read_text("utf-8-sig"))
    except FileNotFoundError as error:
        raise AtrousError(
            f"{path}: there is no such file. It names the classes of the masks, for example `classes: [background, "
            f"crack]`; `atrous data init {path.parent}` writes one from the values found in the masks."
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise AtrousError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}.") from error
    try:
        description = Description.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        entry = ".".join(map(str, first["loc"]))
        near = (
            did_you_mean(str(first["loc"][-1]), Description.model_fields) if first["type"] == "extra_forbidden" else ""
        )
        raise AtrousError(f"{path}: {entry or 'the whole'}: {first['msg']}.{near}") from error
    twice = sorted({name for name in description.names if description.names.count(name) > 1})
    if twice:
        raise AtrousError(f"{path}: the class '{twice[0]}' is named twice.")
    return description


@DATASETS.register("folder", None)
def folder(*, root: Path, split: str = "", classes: str = FILE) -> SegmentationDataset:
    """Images, masks of any kind and `classes.yaml` in a folder; see docs/data.md.

    Without `split` it is "train" if there is one, else all. `classes` names another file.
    """
    if not root.is_dir():
        raise AtrousError(f"{root}: there is no such folder.")
    description = read_description(root / classes)
    pairs, faults = _pairs(root, description)
    splits, more = _splits(root, description, tuple(pairs))
    chosen = split or ("train" if "train" in splits else "all")
    check_choice(f"The folder {root}", "split", chosen, (*splits, *(("all",) if "all" not in splits else ())))
    items = tuple(pairs[name] for name in splits.get(chosen, pairs))
    if not items:
        raise AtrousError(" ".join([f"{root}: the split '{chosen}' holds no pair of image and mask.", *faults[:1]]))
    return SegmentationDataset(
        name=root.name,
        split=chosen,
        items=items,
        classes=description.names,
        colors=description.colors,
        reader=_reader(description, [item.mask for item in pairs.values() if item.mask], str(root / classes)),
        ignore_index=description.ignore_index,
        splits=tuple(splits) or ("all",),
        faults=(*faults, *more),
    )


def _pairs(root: Path, description: Description) -> tuple[dict[str, Item], list[str]]:
    """Image and mask by name; and what has no partner."""
    images, faults = _files(root, description.images, IMAGE_FOLDERS, IMAGE_SUFFIXES, description.image_ending)
    endings = MASK_ENDINGS if description.mask_ending is None else (description.mask_ending,)
    found = [_files(root, description.masks, MASK_FOLDERS, MASK_SUFFIXES, ending) for ending in endings]
    masks, more = max(found, key=lambda each: len(each[0].keys() & images.keys()))
    pairs = {name: Item(name, images[name], masks[name]) for name in sorted(images.keys() & masks.keys())}
    faults += more
    faults += [f"{images[name]}: the image has no mask." for name in sorted(images.keys() - masks.keys())]
    faults += [f"{masks[name]}: the mask has no image." for name in sorted(masks.keys() - images.keys())]
    return pairs, faults


def _files(
    root: Path, given: str, usual: tuple[str, ...], suffixes: tuple[str, ...], ending: str
) -> tuple[dict[str, Path], list[str]]:
    """Files by the common part of their names, the split in front of it where `given` has one; and double names."""
    before, marker, after = given.partition("{split}")
    if marker:
        places = [(f"{p.name}/", p / after.strip("/")) for p in sorted((root / before).iterdir()) if p.is_dir()]
    else:
        places = [("", first_of(root, *((given,) if given else usual)))]
    found: dict[str, Path] = {}
    faults = []
    for prefix, place in places:
        for path in files_in(place, suffixes):
            name = prefix + name_in(place, path)
            if not name.endswith(ending):
                continue
            name = name.removesuffix(ending)
            if name in found:
                faults.append(f"{path}: its name without suffix is that of {found[name].name} too; it was left out.")
            else:
                found[name] = path
    return found, faults


def _splits(
    root: Path, description: Description, names: tuple[str, ...]
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The names in each split, and what was wrong with the lists."""
    given: Mapping[str, str | float] = description.splits or _usual_splits(root, names)
    fractions = {name: value for name, value in given.items() if not isinstance(value, str)}
    if sum(fractions.values()) > 1 + 1e-9 or min(fractions.values(), default=0) < 0:
        raise AtrousError(f"{root / FILE}: splits: the fractions {fractions} must be positive and make 1 at most.")
    splits: dict[str, tuple[str, ...]] = {}
    faults: list[str] = []
    for name, place in given.items():
        if isinstance(place, str) and place.endswith(".txt"):
            listed = [_stem(entry) for entry in read_list(root / place)]
            faults += [
                f"{root / place}: '{entry}' is listed, but is no pair of image and mask."
                for entry in listed
                if entry not in names
            ]
            splits[name] = tuple(entry for entry in listed if entry in names)
        elif isinstance(place, str):
            splits[name] = tuple(each for each in names if each.startswith(f"{place.rstrip('/')}/"))
    taken = {each for split in splits.values() for each in split}
    splits.update(draw_fractions([each for each in names if each not in taken], fractions, description.seed))
    return splits, faults


def _usual_splits(root: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Splits by lists, else by folders, of the usual names."""
    lists = {name: f"{name}.txt" for name in SPLIT_NAMES if (root / f"{name}.txt").is_file()}
    tops = {name.partition("/")[0] for name in names if "/" in name}
    return lists or {name: name for name in SPLIT_NAMES if name in tops}


def _stem(entry: str) -> str:
    suffix = Path(entry).suffix.lower()
    return entry[: -len(suffix)] if suffix in (*IMAGE_SUFFIXES, *MASK_SUFFIXES) else entry


def draw_fractions(names: Iterable[str], fractions: Mapping[str, float], seed: int) -> dict[str, tuple[str, ...]]:
    """Names dealt to splits at random, the same on every machine; each keeps the order given."""
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


def _reader(description: Description, masks: list[Path], where: str) -> MaskReader:
    values: dict[int, int] = {}
    colors: dict[Color, int] = {}
    twins = False
    for label, entry in enumerate(description.classes):
        for value in (label,) if entry.values is None else entry.values:
            if value in values:
                raise AtrousError(
                    f"{where}: the value {value} is that of '{description.names[values[value]]}' and of '{entry.name}'."
                )
            values[value] = label
        if entry.color is not None:
            twins |= entry.color in colors
            colors[entry.color] = label
    if description.coding == "color" and (twins or len(colors) < len(description.classes)):
        raise AtrousError(f"{where}: coding: color needs a color for every class, and no two alike.")
    by_place = all(entry.values is None for entry in description.classes)
    if by_place and len(values) == 2 and _black_and_white(masks):
        values = {0: 0, 255: 1}
    for ignored in description.ignore:
        if isinstance(ignored, int):
            values.setdefault(ignored, description.ignore_index)
        else:
            colors.setdefault(ignored, description.ignore_index)
    complete = not twins and all(entry.color is not None for entry in description.classes)
    return MaskReader(
        description.names,
        description.ignore_index,
        values=values,
        colors=colors if complete else None,
        by_color=description.coding == "color",
        advice=ADVICE,
    )


def _black_and_white(masks: list[Path]) -> bool:
    """Whether two classes are stored as 0 and 255, which would else be read as background and ignored."""
    white = False
    for path in masks[:: max(1, len(masks) // LOOKED_AT)][:LOOKED_AT]:
        try:
            stored = read_raw_mask(path)
        except AtrousError:
            continue  # will be found, and named, when it is read
        if not np.isin(stored, (0, 255)).all():
            return False
        white = white or bool((stored == 255).any())
    return white


def describe_folder(root: Path) -> Path:
    """Write a `classes.yaml` for the values that are found in the masks of a folder, to be given names.

    Returns: its path.
    Raises: `AtrousError` where there is one already, or the masks are in color or cannot be read.
    """
    path = root / FILE
    if path.exists():
        raise AtrousError(f"{path} is there already; it was left as it is.")
    masks = files_by_stem(first_of(root, *MASK_FOLDERS), MASK_SUFFIXES)
    if not masks:
        raise AtrousError(f"{root}: the folder of masks is empty.")
    found: set[int] = set()
    colors: set[Color] = set()
    for mask in masks.values():
        stored = read_raw_mask(mask)
        if stored.ndim == 3 and not (stored == stored[..., :1]).all():
            colors |= {(int(r), int(g), int(b)) for r, g, b in np.unique(stored.reshape(-1, 3), axis=0)}
        else:
            found |= set(np.unique(stored).tolist())
    lines = ["# Give the classes their names; see docs/data.md for what else can be said here.", "classes:"]
    if colors:
        lines += [f"  - {{name: class_{i}, color: [{r}, {g}, {b}]}}" for i, (r, g, b) in enumerate(sorted(colors))]
    elif found <= {0, 255}:
        lines += ["  - {name: background, values: [0]}", "  - {name: foreground, values: [255]}"]
    else:
        lines += [f"  - {{name: class_{value}, values: [{value}]}}" for value in sorted(found - {255})]
    if len(masks) >= ENOUGH_TO_SPLIT and not _usual_splits(root, tuple(masks)):
        lines += ["# Drawn once and for all; lists (train.txt, val.txt) or folders say it better.", DRAWN]
    with writing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", "utf-8")
    return path
