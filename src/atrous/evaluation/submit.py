"""The files that evaluation servers take."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from atrous.data.datasets import cityscapes, voc
from atrous.errors import AtrousError
from atrous.files import writing
from atrous.imaging.labels import Labels, save_labels


def write_voc(
    predictions: Iterable[tuple[str, Labels]], folder: Path, *, competition: str = "comp6", split: str = "test"
) -> Path:
    """Palette PNGs under `results/VOC2012/Segmentation/COMPETITION_SPLIT_cls/`, and all of it as `results.tgz`.

    `comp5` is for networks trained on nothing but VOC's own training images, `comp6` for all others. Names are the
    images' own, such as 2008_000006.

    Returns: the archive to upload.
    Source: PASCAL VOC 2012 development kit, section "Submission of results".
    Raises: `AtrousError` for another competition, labels that are no classes of VOC, or a place that cannot be written.
    """
    if competition not in ("comp5", "comp6"):
        raise AtrousError(f"competition '{competition}': segmentation has comp5 and comp6.")
    inside = Path("results") / "VOC2012" / "Segmentation" / f"{competition}_{split}_cls"
    for name, labels in predictions:
        _check(name, labels, len(voc.CLASSES))
        save_labels(labels, voc.COLORS, folder / inside / f"{Path(name).name}.png")
    archive = folder / "results.tgz"
    with writing(archive) as temporary, tarfile.open(temporary, "w:gz") as tar:
        tar.add(folder / "results", arcname="results")
    return archive


def write_cityscapes(predictions: Iterable[tuple[str, Labels]], folder: Path) -> list[Path]:
    """Gray PNGs of the data set's own label ids, from predictions of its 19 training classes.

    The server and `cityscapesscripts` know an image by `CITY_SEQUENCE_FRAME`, with which the names here begin:
    `berlin_000000_000019_pred_labelIds.png`.

    Source: Cityscapes benchmark, section "Submission"; `evalPixelLevelSemanticLabeling.py`.
    Raises: `AtrousError` for names that are not of Cityscapes, labels of no class, or a place that cannot be written.
    """
    ids = np.array(cityscapes.LABEL_IDS, np.uint8)
    written = []
    for name, labels in predictions:
        _check(name, labels, len(ids))
        parts = Path(name).name.split("_")
        if len(parts) < 3 or not (parts[1].isdigit() and parts[2][:6].isdigit()):
            raise AtrousError(f"'{name}': Cityscapes names its images CITY_SEQUENCE_FRAME, as berlin_000000_000019.")
        path = folder / f"{parts[0]}_{parts[1]}_{parts[2][:6]}_pred_labelIds.png"
        with writing(path) as temporary:
            Image.fromarray(ids[labels]).save(temporary, format="PNG")
        written.append(path)
    return written


def _check(name: str, labels: Labels, classes: int) -> None:
    if labels.ndim != 2 or labels.size == 0 or int(labels.max()) >= classes or int(labels.min()) < 0:
        raise AtrousError(f"'{name}': a map (H, W) of classes 0 to {classes - 1} is expected.")
