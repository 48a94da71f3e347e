"""Convert any data set to a folder of images and index PNGs; check quickly that its files exist."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from PIL import ExifTags

from atrous.data.classes_yaml import FILE
from atrous.data.dataset import Item, SegmentationDataset, size_mismatch_message
from atrous.errors import AtrousError
from atrous.files import writing
from atrous.imaging.io import open_image
from atrous.imaging.labels import save_labels
from atrous.progress import OnProgress


def convert(
    datasets: Sequence[SegmentationDataset], out: Path, *, on_progress: OnProgress = lambda done, total: None
) -> Path:
    """Convert splits of a data set to the layout of `folder`: `images/`, `masks/`, a list per split, `classes.yaml`.

    Masks become palette PNGs of labels. Images are hard-linked if the file system allows it, else copied. Files of an
    earlier, interrupted run are kept; `classes.yaml` is written last, so a folder without it is unfinished.

    Returns: `out`, which `open_dataset` opens.
    Raises: `AtrousError` for files that are not readable or writable, and images without masks.
    """
    jobs = [(dataset, index) for dataset in datasets for index in range(len(dataset))]
    for done, (dataset, index) in enumerate(jobs):
        on_progress(done, len(jobs))
        item = dataset.items[index]
        mask = out / "masks" / f"{item.name}.png"
        if not mask.exists():
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
        "splits": {dataset.split: f"{dataset.split}.txt" for dataset in datasets},
    }
    with writing(out / FILE) as temporary:
        text = yaml.safe_dump(description, sort_keys=False, allow_unicode=True, default_flow_style=None)
        temporary.write_text(text, "utf-8")
    on_progress(len(jobs), len(jobs))
    return out


def _link_or_copy(source: Path, target: Path) -> None:
    if target.exists():
        return
    if not source.is_file():
        raise AtrousError(f"{source}: no such file. Unpack the data set again, or remove the image from its list.")
    with writing(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:  # another disk, or a file system without hard links
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
        size = _upright_size(
            image.size, image.getexif().get(ExifTags.Base.Orientation, 1) if image.format == "JPEG" else 1
        )
    if item.mask is None:
        return
    if item.mask.suffix in (".mat", ".json"):
        if not item.mask.is_file():
            yield f"{item.mask}: no such file. Unpack the data set again, or remove the image from its list."
        return
    with open_image(item.mask) as mask:
        if mask.size != size:
            yield size_mismatch_message(item, size[::-1], mask.size[::-1])


def _upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return size[::-1] if orientation >= 5 else size
