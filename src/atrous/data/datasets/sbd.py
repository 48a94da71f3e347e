"""The Semantic Boundaries Dataset: 11,355 images of VOC 2011 with masks of all things in them.

With the masks of VOC it makes the 10,582 training images ("trainaug") of all DeepLab results on VOC.

Source: Hariharan, Arbelaez, Bourdev, Maji, Malik: Semantic Contours from Inverse Detectors, ICCV 2011.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atrous.data.dataset import DATASETS, Item, SegmentationDataset
from atrous.data.datasets import voc
from atrous.data.layout import check_choice, descend, existing, pair, read_list
from atrous.errors import AtrousError
from atrous.files import writing
from atrous.imaging.labels import Labels, MaskReader, save_labels
from atrous.registry import Paper

PAPER = Paper(
    title="Semantic Contours from Inverse Detectors",
    authors="Hariharan, Arbelaez, Bourdev, Maji, Malik",
    year=2011,
)
SPLITS = ("train", "val")
COUNTS = {"VOC train": 1464, "VOC val": 1449, "SBD train": 8498, "SBD val": 2857, "trainaug": 10582}
"""How many names the official lists hold, and their union without VOC val."""


@dataclass(frozen=True)
class MatReader:
    """Labels from a MATLAB file: `field` is the path to the matrix, such as `("GTcls", "Segmentation")`."""

    field: tuple[str, ...]
    masks: MaskReader

    def __call__(self, item: Item) -> Labels:
        assert item.mask is not None
        return self.masks.decode(read_mat(item.mask, self.field), item.mask)


def read_mat(path: Path, field: tuple[str, ...]) -> NDArray[Any]:
    """A matrix of whole numbers in a MATLAB file.

    Shape: -> (H, W) uint8 or uint16.
    Raises: `AtrousError` for a file that is missing, damaged or holds no such matrix, or where SciPy is not installed.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise AtrousError("Reading .mat files needs SciPy: pip install 'atrous[data]'.") from error
    if not path.is_file():
        raise AtrousError(f"{path}: there is no such file.")
    try:
        found = loadmat(path, variable_names=[field[0]], struct_as_record=False, squeeze_me=True)[field[0]]
        for name in field[1:]:
            found = getattr(found, name)
        values = np.atleast_2d(np.asarray(found))
    except (KeyError, AttributeError) as error:
        raise AtrousError(f"{path}: the file holds no {'.'.join(field)}; is it of another data set?") from error
    except Exception as error:  # SciPy's reader raises all sorts for damaged files
        raise AtrousError(f"{path}: not a MATLAB file, or a damaged one ({error}). Fetch it anew.") from error
    if values.ndim != 2 or values.dtype.kind not in "ui" or values.size == 0 or not 0 <= values.min() <= 65535:
        raise AtrousError(f"{path}: {'.'.join(field)} is no matrix of labels, but {values.dtype} {values.shape}.")
    return values.astype(np.uint8 if values.max() < 256 else np.uint16)


def _folder(root: Path) -> Path:
    return descend(root, "dataset", "benchmark_RELEASE/dataset", "benchmark/benchmark_RELEASE/dataset", holding="cls")


@DATASETS.register("sbd", PAPER)
def sbd(*, root: Path, split: str = "train") -> SegmentationDataset:
    """SBD in its official layout (`img/`, `cls/*.mat`): 8,498 train and 2,857 val images. Its val is not VOC's."""
    check_choice("sbd", "split", split, SPLITS)
    folder = _folder(root)
    names = read_list(folder / f"{split}.txt")
    return SegmentationDataset(
        name="sbd",
        split=split,
        items=tuple(pair(names, folder / "img", folder / "cls", mask=".mat")),
        classes=voc.CLASSES,
        colors=voc.COLORS,
        reader=_reader(),
        splits=existing(folder, SPLITS, "{}.txt"),
    )


def _reader() -> MatReader:
    return MatReader(("GTcls", "Segmentation"), MaskReader(voc.CLASSES))


def trainaug_names(
    voc_train: Collection[str], voc_val: Collection[str], sbd_names: Collection[str], *, partial: bool = False
) -> list[str]:
    """The names of trainaug, in order: VOC train and all of SBD, without VOC val.

    Raises: `AtrousError` unless the lists and the result have the official counts; `partial` lets parts of them pass.
    """
    names = sorted((set(voc_train) | set(sbd_names)) - set(voc_val))
    found = {"VOC train": len(set(voc_train)), "VOC val": len(set(voc_val)), "trainaug": len(names)}
    wrong = [f"{what} {count:,} (expected {COUNTS[what]:,})" for what, count in found.items() if count != COUNTS[what]]
    if len(set(sbd_names)) != COUNTS["SBD train"] + COUNTS["SBD val"]:
        wrong.append(f"SBD {len(set(sbd_names)):,} (expected {COUNTS['SBD train'] + COUNTS['SBD val']:,})")
    if wrong and not partial:
        raise AtrousError(
            f"The lists are not the official ones: {', '.join(wrong)}. Fetch whole archives, or allow a part of them "
            "(--partial)."
        )
    return names


def build_trainaug(
    voc_root: Path,
    sbd_root: Path,
    out: Path,
    *,
    partial: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Write the masks of trainaug as palette PNGs, and then the list, below `out`, in the layout of VOC.

    The masks of VOC are taken for its own images, those of SBD for the rest. What an earlier run wrote is kept, and the
    list appears when all masks are there. Afterwards `voc2012:VOC?split=trainaug` reads it, with `aug=OUT` where `out`
    is not the folder of VOC.

    Returns: the names.
    Raises: `AtrousError` for lists that are not whole, see `trainaug_names`, or masks that cannot be read or written.
    """
    official = voc.voc2012(root=voc_root, split="train")
    own = {item.name: item for item in official.items}
    other = {item.name: item for split in SPLITS for item in sbd(root=sbd_root, split=split).items}
    names = trainaug_names(own, voc.voc2012(root=voc_root, split="val").names, other, partial=partial)
    for done, name in enumerate(names):
        on_progress(done, len(names))
        target = out / voc.AUGMENTED_MASKS / f"{name}.png"
        if target.exists():
            continue
        labels = official.reader(own[name]) if name in own else _reader()(other[name])
        save_labels(labels, voc.COLORS, target)
    with writing(out / voc.LISTS / "trainaug.txt") as temporary:
        temporary.write_text("".join(f"{name}\n" for name in names), "utf-8")
    on_progress(len(names), len(names))
    return names
