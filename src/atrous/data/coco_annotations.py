"""Read COCO's JSON annotations, and draw the regions in them as label maps.

Source: the COCO API (`maskApi.c`); Lin et al.: Microsoft COCO: Common Objects in Context, ECCV 2014.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from atrous.data.dataset import Item
from atrous.errors import AtrousError
from atrous.imaging.labels import Labels
from atrous.imaging.pixel_limit import max_pixels
from atrous.parsing import ParseError, parse_json

SPLITS = ("train2017", "val2017")


def read_json(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """Read an annotation file of COCO.

    Raises: `AtrousError` for a file that is missing, not JSON, or lacks one of the `keys`.
    """
    try:
        content = parse_json(path.read_bytes())
    except OSError as error:
        raise AtrousError(f"{path}: this annotation file is not readable: {error.strerror}.") from error
    except ParseError as error:
        raise AtrousError(f"{path}: not a JSON file, or a damaged one ({error}). Download it again.") from error
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise AtrousError(
            f"{path}: '{missing[0]}' is missing; expected COCO annotations with {', '.join(keys)}. Give another file."
        )
    return content


@contextmanager
def check_format(path: Path) -> Iterator[None]:
    """Turn errors about missing or malformed entries, raised within the block, into an `AtrousError`."""
    try:
        yield
    except AtrousError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise AtrousError(
            f"{path}: an entry is not as in COCO's annotations ({type(error).__name__}: {error}). Check that this is "
            "the right file, or download it again."
        ) from error


@dataclass(frozen=True)
class Region:
    """One annotated object: its label, and polygons (points (n, 2), float32) or run lengths, or neither."""

    label: int
    polygons: tuple[NDArray[np.float32], ...] = ()
    runs: tuple[int, ...] = ()


@dataclass(frozen=True)
class RegionReader:
    """Reads labels by drawing the regions of an image; pixels that regions of two classes claim are ignored.

    COCO does not tell which region is in front. torchvision ignores them too, and its released weights were trained so.
    """

    sizes: Mapping[str, tuple[int, int]]
    """Height and width of each image by its name."""
    regions: Mapping[str, tuple[Region, ...]]
    """The regions of each image by its name."""
    ignore_index: int = 255

    def __call__(self, item: Item) -> Labels:
        labels = np.zeros(self.sizes[item.name], np.uint8)
        covered = np.zeros(labels.shape, np.bool_)
        for region in self.regions[item.name]:
            mask = draw_region(region, labels.shape)
            disputed = mask & covered & (labels != region.label)
            labels[mask & ~covered] = region.label
            labels[disputed] = self.ignore_index
            covered |= mask
        return labels


def parse_size(image: Mapping[str, Any]) -> tuple[int, int]:
    """Get the height and width of an image's entry.

    Raises: `ValueError` for a size that no image has.
    """
    height, width = image["height"], image["width"]
    if not (isinstance(height, int) and isinstance(width, int) and min(height, width) > 0):
        raise ValueError(f"height {height!r:.40}, width {width!r:.40}")
    if height * width > max_pixels():
        raise ValueError(f"an image of {width} x {height}")
    return height, width


def parse_region(annotation: Mapping[str, Any], label: int, size: tuple[int, int], path: Path) -> Region:
    """Parse the segmentation of an annotation; `size` is (height, width) of its image, `path` is for error messages.

    Raises: `AtrousError` for run lengths that do not add up to the size of the image, and polygons far outside it.
    """
    shape = annotation["segmentation"]
    if isinstance(shape, list):
        polygons = tuple(np.array(flat, np.float32).reshape(-1, 2) for flat in shape)
        bound = 2 * max(size)  # OpenCV takes hours for polygons that reach far beyond the image
        if not all((np.abs(points) <= bound).all() for points in polygons):
            raise AtrousError(
                f"{path}: a polygon of annotation {annotation.get('id')!r:.40} is far outside its image of {size[1]} x "
                f"{size[0]}. The file is damaged: download it again."
            )
        return Region(label, polygons=polygons)
    runs = decode_runs(shape["counts"])
    if sum(runs) != size[0] * size[1] or min(runs, default=0) < 0:
        raise AtrousError(
            f"{path}: the run lengths of annotation {annotation.get('id')!r:.40} cover {sum(runs)} pixels; expected "
            f"{size[1]} x {size[0]}, the size of the image. The file is damaged: download it again."
        )
    return Region(label, runs=runs)


def draw_region(region: Region, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """Draw a region as a mask. OpenCV fills the polygons: their borders may differ by a pixel from pycocotools.

    Shape: -> (H, W), which is `size`.
    """
    if region.runs:
        values = np.arange(len(region.runs)) % 2 == 1
        return np.repeat(values, region.runs).reshape(size[::-1]).T  # runs go down the columns
    mask = np.zeros(size, np.uint8)
    fixed = [np.round((points - 0.5) * 16).astype(np.int32) for points in region.polygons]  # pixel centers; 1/16 pixel
    for points in fixed:  # one by one: filling overlapping polygons of an object at once leaves holes
        cv2.fillPoly(mask, [points], 1, shift=4)
    return mask.astype(bool)


def decode_runs(counts: str | Sequence[int]) -> tuple[int, ...]:
    """Decode the lengths of alternating runs of background and object, from a list or from COCO's packed text.

    Source: `rleFrString` of the COCO API (`maskApi.c`): 5 bits per character, the sixth bit tells that more follow;
    from the fourth on, lengths are differences to the length two before.
    """
    if not isinstance(counts, str):
        return tuple(int(count) for count in counts)
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode("ascii"):
        bits = character - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return tuple(runs)
