"""Convert any data set to a folder of images and index PNGs; check quickly that its files exist."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import ExifTags, Image

from atrous.data.classes_yaml import FILE, read_classes_yaml
from atrous.data.dataset import Item, SegmentationDataset, size_mismatch_message
from atrous.errors import AtrousError
from atrous.files import write_json, writing
from atrous.imaging.io import open_image
from atrous.imaging.labels import MaskReader, save_labels
from atrous.parsing import parse_json
from atrous.progress import OnProgress

MAPPING = "conversion.json"
"""The file beside the converted masks that records how their labels were made."""


def convert(
    datasets: Sequence[SegmentationDataset], out: Path, *, on_progress: OnProgress = lambda done, total: None
) -> Path:
    """Convert splits of a data set to the layout of `folder`: `images/`, `masks/`, a list per split, `classes.yaml`.

    Masks become palette PNGs of labels. Images are hard-linked if the file system allows it, else copied. Files of an
    earlier, interrupted run are kept unless their source is newer; `classes.yaml` is written last, so a folder without
    it is unfinished. `conversion.json` records the classes and their values in the source: a folder whose masks were
    made by another mapping is refused, because their labels would change meaning. Splits of the same mapping are added.

    Returns: `out`, which `open_dataset` opens.
    Raises: `AtrousError` for files that are not readable or writable, images without masks, the folder of the data set
    itself, and a folder that contains other masks.
    """
    earlier_splits = _prepare_folder(datasets, out)
    jobs = [(dataset, index) for dataset in datasets for index in range(len(dataset))]
    for done, (dataset, index) in enumerate(jobs):
        on_progress(done, len(jobs))
        item = dataset.items[index]
        mask = out / "masks" / f"{item.name}.png"
        if not _is_current(mask, item.mask):
            save_labels(dataset.labels(index), dataset.colors, mask)
        _link_or_copy(item.image, out / "images" / f"{item.name}{item.image.suffix}")
    for dataset in datasets:
        with writing(out / f"{dataset.split}.txt") as temporary:
            temporary.write_text("".join(f"{name}\n" for name in dataset.names), "utf-8")
    first = datasets[0]
    description = {
        "classes": [
            {"name": name, "color": list(color)} for name, color in zip(first.classes, first.colors, strict=True)
        ],
        "ignore": [first.ignore_index],
        "ignore_index": first.ignore_index,
        "splits": {**earlier_splits, **{dataset.split: f"{dataset.split}.txt" for dataset in datasets}},
    }
    with writing(out / FILE) as temporary:
        text = yaml.safe_dump(description, sort_keys=False, allow_unicode=True, default_flow_style=None)
        temporary.write_text(text, "utf-8")
    on_progress(len(jobs), len(jobs))
    return out


def _prepare_folder(datasets: Sequence[SegmentationDataset], out: Path) -> dict[str, str | float]:
    """Check that the folder may take the masks, and record their mapping in it; return the splits it has already."""
    target = out.resolve()
    for dataset in datasets:
        folders = {path.parent for item in dataset.items for path in (item.image, item.mask) if path is not None}
        if any(target in (folder.resolve() / "file").parents for folder in folders):
            raise AtrousError(f"{out} contains the files of {dataset.name} itself: choose another folder with -o.")
    mapping, record = _describe_mapping(datasets), out / MAPPING
    if record.is_file():
        earlier = _read_mapping(record)
        for key in sorted(mapping.keys() - {"sources"}):
            if earlier.get(key) != mapping[key]:
                raise AtrousError(
                    f"{out} contains masks of another mapping ({_first_difference(key, earlier.get(key), mapping[key])}"
                    "): their labels would change meaning. Choose another folder with -o, or delete this one first."
                )
        for split, source in mapping["sources"].items():
            if earlier["sources"].get(split, source) != source:
                raise AtrousError(
                    f"{out} contains the split '{split}' of {earlier['sources'][split]}, not of {source}: choose "
                    "another folder with -o, or delete this one first."
                )
        mapping["sources"] = {**earlier["sources"], **mapping["sources"]}
    elif (out / FILE).exists() or next((out / "masks").rglob("*.*"), None) is not None:
        raise AtrousError(
            f"{out} contains masks whose mapping is unknown, for {MAPPING} is missing: choose another folder with -o."
        )
    write_json(record, mapping)
    return dict(read_classes_yaml(out / FILE).splits) if (out / FILE).is_file() else {}


def _describe_mapping(datasets: Sequence[SegmentationDataset]) -> dict[str, Any]:
    """Describe all that gives labels their meaning: classes, the values and colors they are stored as, the source."""
    first = datasets[0]
    reader = first.reader
    members: list[Any] = [getattr(reader, entry.name) for entry in fields(reader)] if is_dataclass(reader) else []
    masks = next((member for member in (reader, *members) if isinstance(member, MaskReader)), None)
    stored: dict[str, Any] = {}
    if masks is not None:
        colors = [[*color, label] for color, label in sorted((masks.colors or {}).items())]
        values = None if masks.values is None else [[value, label] for value, label in sorted(masks.values.items())]
        stored = {"values": values, "mask_colors": colors, "by_color": masks.by_color}
    kind = reader if hasattr(reader, "__qualname__") else type(reader)
    return {
        "dataset": first.name,
        "classes": list(first.classes),
        "colors": [list(color) for color in first.colors],
        "ignore_index": first.ignore_index,
        "reader": f"{kind.__module__}.{kind.__qualname__}",
        **stored,
        "sources": {dataset.split: _common_folder(dataset) for dataset in datasets},
    }


def _common_folder(dataset: SegmentationDataset) -> str:
    return os.path.commonpath(
        [folder.resolve() for folder in {(item.mask or item.image).parent for item in dataset.items}]
    )


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes())
        return {**content, "sources": dict(content["sources"])}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AtrousError(f"{path}: not a record of a conversion; choose another folder with -o.") from error


def _first_difference(key: str, before: Any, now: Any) -> str:
    """Describe the first difference of an entry, of lists by their first different element."""
    if isinstance(before, list) and isinstance(now, list):
        pairs = zip(before, now, strict=False)
        place = next((index for index, (old, new) in enumerate(pairs) if old != new), min(len(before), len(now)))
        before, now = (entries[place] if place < len(entries) else "nothing" for entries in (before, now))
        key = f"{key}, entry {place}"
    return f"{key}: {before} there, {now} now"


def _is_current(target: Path, source: Path | None) -> bool:
    """Tell whether a file exists and is not older than the one it was made from."""
    if not target.exists():
        return False
    return source is None or not source.exists() or source.stat().st_mtime <= target.stat().st_mtime


def _link_or_copy(source: Path, target: Path) -> None:
    if _is_current(target, source):
        return
    if not source.is_file():
        raise AtrousError(f"{source}: no such file. Unpack the data set again, or remove the image from its list.")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.unlink(missing_ok=True)
        os.link(source.resolve(), target)  # not a symbolic link itself, which may be relative
    except OSError:  # another disk, or a file system without hard links
        with writing(target) as temporary:
            shutil.copyfile(source, temporary)


def check_files(dataset: SegmentationDataset, *, on_progress: OnProgress = lambda done, total: None) -> Iterator[str]:
    """Find files of a data set that are missing, not images, or of different sizes, by reading their headers alone."""
    yield from dataset.listing_errors
    for done, item in enumerate(dataset.items, start=1):
        try:
            yield from _check_item(item)
        except AtrousError as error:
            yield str(error)
        on_progress(done, len(dataset))


def _check_item(item: Item) -> Iterator[str]:
    with open_image(item.image) as image:
        size = _upright_size(image)
    if item.mask is None:
        return
    if item.mask.suffix in (".mat", ".json"):
        if not item.mask.is_file():
            yield f"{item.mask}: no such file. Unpack the data set again, or remove the image from its list."
        return
    with open_image(item.mask) as mask:
        mask_size = _upright_size(mask)
    if mask_size != size:
        yield size_mismatch_message(item, size, mask_size)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Compute the height and width of an image turned as its orientation says, from its header."""
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (image.width, image.height) if turned and image.format != "TIFF" else (image.height, image.width)
