"""Write predictions as the evaluation servers of PASCAL VOC and Cityscapes expect them."""

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
    """Write predictions as palette PNGs and pack them into `results.tgz` for the PASCAL VOC server.

    The PNGs are in `results/VOC2012/Segmentation/COMPETITION_SPLIT_cls/`, with the names of the images, such as
    2008_000006. `comp5` is for networks trained on VOC's own training images only, `comp6` for all others.

    Returns: the archive to upload.
    Source: PASCAL VOC 2012 development kit, section "Submission of results".
    Raises: `AtrousError` for another competition, labels outside VOC's classes, or a folder that cannot be written.
    """
    if competition not in ("comp5", "comp6"):
        raise AtrousError(f"competition '{competition}': comp5 or comp6 is expected for segmentation.")
    relative = Path("results") / "VOC2012" / "Segmentation" / f"{competition}_{split}_cls"
    for name, labels in predictions:
        _check(name, labels, len(voc.CLASSES))
        save_labels(labels, voc.COLORS, folder / relative / f"{Path(name).name}.png")
    archive = folder / "results.tgz"
    with writing(archive) as temporary, tarfile.open(temporary, "w:gz") as tar:
        tar.add(folder / "results", arcname="results")
    return archive


def write_cityscapes(predictions: Iterable[tuple[str, Labels]], folder: Path) -> list[Path]:
    """Write predictions of the 19 training classes as gray PNGs of Cityscapes' label ids.

    The server and `cityscapesscripts` identify an image by `CITY_SEQUENCE_FRAME`, with which the file names begin:
    `berlin_000000_000019_pred_labelIds.png`.

    Source: Cityscapes benchmark, section "Submission"; `evalPixelLevelSemanticLabeling.py`.
    Raises: `AtrousError` for names that are not Cityscapes', labels outside its classes, or a folder that cannot be
    written.
    """
    ids = np.array(cityscapes.LABEL_IDS, np.uint8)
    written = []
    for name, labels in predictions:
        _check(name, labels, len(ids))
        parts = Path(name).name.split("_")
        if len(parts) < 3 or not (parts[1].isdigit() and parts[2][:6].isdigit()):
            raise AtrousError(
                f"'{name}': a name that begins with CITY_SEQUENCE_FRAME is expected, such as berlin_000000_000019."
            )
        path = folder / f"{parts[0]}_{parts[1]}_{parts[2][:6]}_pred_labelIds.png"
        with writing(path) as temporary:
            Image.fromarray(ids[labels]).save(temporary, format="PNG")
        written.append(path)
    return written


def _check(name: str, labels: Labels, num_classes: int) -> None:
    if labels.ndim != 2 or labels.size == 0 or int(labels.max()) >= num_classes or int(labels.min()) < 0:
        raise AtrousError(f"'{name}': a label map (H, W) of classes 0 to {num_classes - 1} is expected.")
