"""Write predictions as the evaluation servers of PASCAL VOC and Cityscapes expect them, and check such archives."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from atrous.data.dataset import Item, SegmentationDataset
from atrous.data.datasets import cityscapes, voc
from atrous.errors import AtrousError, did_you_mean
from atrous.files import writing
from atrous.imaging.io import read_image
from atrous.imaging.labels import Labels, encode_labels
from atrous.inference import Segmenter
from atrous.inference.prefetch import prefetch
from atrous.inference.refine import segment
from atrous.progress import OnProgress

Predictions = Iterable[tuple[str, Labels]]
"""The names of images, and their labels (H, W)."""
TAR_SUFFIXES, ZIP_SUFFIXES = (".tgz", ".tar.gz"), (".zip",)


def write_voc(
    predictions: Predictions, archive: Path, *, competition: str = "comp6", split: str = "test"
) -> dict[str, tuple[int, int]]:
    """Write predictions as palette PNGs to a `.tgz` or `.tar.gz` archive for the PASCAL VOC server.

    The PNGs are in `results/VOC2012/Segmentation/COMPETITION_SPLIT_cls/`, with the names of the images, such as
    2008_000006. `comp5` is for networks trained on VOC's own training images only, `comp6` for all others.

    Returns: the files in the archive, with their heights and widths.
    Source: PASCAL VOC 2012 development kit, section "Submission of results".
    Raises: `AtrousError` for another competition or kind of archive, labels outside VOC's classes, or a file that is
    not writable.
    """
    if competition not in ("comp5", "comp6"):
        raise AtrousError(f"competition '{competition}': comp5 or comp6 is expected for segmentation.")
    _check_suffix(archive, TAR_SUFFIXES)
    folder = f"results/VOC2012/Segmentation/{competition}_{split}_cls"
    written = {}
    with writing(archive) as temporary, tarfile.open(temporary, "w:gz") as tar:
        for name, labels in predictions:
            _check_labels(name, labels, len(voc.CLASSES))
            content = encode_labels(labels, voc.COLORS)
            entry = tarfile.TarInfo(f"{folder}/{Path(name).name}.png")
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
            written[entry.name] = (labels.shape[0], labels.shape[1])
    return written


def write_cityscapes(predictions: Predictions, archive: Path) -> dict[str, tuple[int, int]]:
    """Write predictions of the 19 training classes as gray PNGs of Cityscapes' label ids to a `.zip` archive.

    The server and `cityscapesscripts` identify an image by `CITY_SEQUENCE_FRAME`, with which the file names begin:
    `berlin_000000_000019_pred_labelIds.png`.

    Returns: the files in the archive, with their heights and widths.
    Source: Cityscapes benchmark, section "Submission"; `evalPixelLevelSemanticLabeling.py`.
    Raises: `AtrousError` for names that are not Cityscapes', labels outside its classes, another kind of archive, or a
    file that is not writable.
    """
    _check_suffix(archive, ZIP_SUFFIXES)
    ids = np.array(cityscapes.LABEL_IDS, np.uint8)
    written = {}
    with writing(archive) as temporary, zipfile.ZipFile(temporary, "w") as package:  # PNGs are compressed already
        for name, labels in predictions:
            _check_labels(name, labels, len(ids))
            parts = Path(name).name.split("_")
            if len(parts) < 3 or not (parts[1].isdigit() and parts[2][:6].isdigit()):
                raise AtrousError(
                    f"'{name}': a name that begins with CITY_SEQUENCE_FRAME is expected, such as berlin_000000_000019."
                )
            content = io.BytesIO()
            Image.fromarray(ids[labels]).save(content, format="PNG")
            file = f"{parts[0]}_{parts[1]}_{parts[2][:6]}_pred_labelIds.png"
            package.writestr(file, content.getvalue())
            written[file] = (labels.shape[0], labels.shape[1])
    return written


@dataclass(frozen=True)
class Server:
    """An evaluation server: its data set, the images of its test split, its archives, and what the PNGs hold."""

    dataset: str
    images: int
    suffixes: tuple[str, ...]
    mode: str
    values: tuple[int, ...]
    write: Callable[[Predictions, Path], dict[str, tuple[int, int]]]


_VOC = ("voc2012", 1456, TAR_SUFFIXES, "P", tuple(range(len(voc.CLASSES))))
SERVERS: Mapping[str, Server] = {
    "voc": Server(*_VOC, write_voc),
    "voc_comp5": Server(*_VOC, partial(write_voc, competition="comp5")),
    "cityscapes": Server("cityscapes", 1525, ZIP_SUFFIXES, "L", cityscapes.LABEL_IDS, write_cityscapes),
}
"""The servers by their names on the command line."""


def get_server(name: str, dataset: SegmentationDataset, archive: Path) -> Server:
    """Get a server by its name, after checking that a data set and the name of an archive are what it expects.

    Raises: `AtrousError` if they are not.
    """
    if name not in SERVERS:
        raise AtrousError(
            f"There is no evaluation server '{name}'.{did_you_mean(name, SERVERS)} Known: {', '.join(SERVERS)}."
        )
    server = SERVERS[name]
    if dataset.name != server.dataset:
        raise AtrousError(
            f"The server of {name} evaluates {server.dataset}, not {dataset.name}: use --data "
            f"'{server.dataset}:/path?split=test'."
        )
    _check_suffix(archive, server.suffixes)
    return server


def submit(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    server: Server,
    archive: Path,
    *,
    crf: str | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> None:
    """Segment all images of a data set into an archive for a server, and check the archive.

    Raises: `AtrousError` for images that are not readable, and files that are not writable.
    """
    written = server.write(_predict(segmenter, dataset.items, crf, on_progress), archive)
    check_archive(archive, written, server)


def check_archive(archive: Path, expected: Mapping[str, tuple[int, int]], server: Server) -> None:
    """Check that an archive has exactly the `expected` files, of these heights and widths, with a server's values.

    Raises: `AtrousError` naming the first file that differs.
    """
    missing = set(expected)
    for name, content in _read_archive(archive):
        if name not in missing:
            raise AtrousError(f"{archive}: {name} is not expected, or there twice. Write the archive again.")
        missing.remove(name)
        try:
            with Image.open(io.BytesIO(content)) as image:
                mode, size, values = image.mode, image.size[::-1], np.unique(np.asarray(image))
        except (UnidentifiedImageError, OSError) as error:
            raise AtrousError(f"{archive}: {name} is not an image ({error}). Write the archive again.") from error
        wrong = sorted(set(values.tolist()) - set(server.values))
        if mode != server.mode or size != expected[name] or wrong:
            difference = f"values {wrong[:3]}" if wrong else f"{size[1]} x {size[0]} pixels, mode {mode}"
            height, width = expected[name]
            raise AtrousError(
                f"{archive}: {name} has {difference}; the server expects {width} x {height} pixels, mode "
                f"{server.mode}, and values from {min(server.values)} to {max(server.values)}. Write the archive again."
            )
    if missing:
        raise AtrousError(f"{archive}: {min(missing)} is missing, of {len(expected)} files. Write the archive again.")


def _read_archive(archive: Path) -> Iterator[tuple[str, bytes]]:
    try:
        if archive.name.endswith(ZIP_SUFFIXES):
            with zipfile.ZipFile(archive) as package:
                yield from ((name, package.read(name)) for name in package.namelist())
        else:
            with tarfile.open(archive, "r:gz") as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    yield member.name, b"" if file is None else file.read()
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise AtrousError(f"{archive}: not a readable archive ({error}). Write it again.") from error


def _predict(
    segmenter: Segmenter, items: tuple[Item, ...], crf: str | None, on_progress: OnProgress
) -> Iterator[tuple[str, Labels]]:
    """Segment the images of a data set; the next ones are read while the network runs."""
    images = prefetch(read_image(item.image) for item in items)
    for done, (item, pixels) in enumerate(zip(items, images, strict=True), start=1):
        yield item.name, segment(segmenter, pixels, crf).labels
        on_progress(done, len(items))


def _check_suffix(archive: Path, suffixes: tuple[str, ...]) -> None:
    if not archive.name.endswith(suffixes):
        raise AtrousError(f"{archive}: the server expects an archive whose name ends in {' or '.join(suffixes)}.")


def _check_labels(name: str, labels: Labels, num_classes: int) -> None:
    if labels.ndim != 2 or labels.size == 0 or int(labels.max()) >= num_classes or int(labels.min()) < 0:
        raise AtrousError(f"'{name}': a label map (H, W) of classes 0 to {num_classes - 1} is expected.")
