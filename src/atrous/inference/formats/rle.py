"""Encode label maps as COCO's run lengths, all classes in one pass.

Source: `rleEncode`, `rleToString` and `rleToBbox` of the COCO API (`maskApi.c`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from atrous.imaging.labels import Labels


class ClassRuns(NamedTuple):
    """The pixels of one class: label, packed run lengths, number of pixels, bounding box (x, y, width, height)."""

    label: int
    counts: str
    area: int
    box: tuple[int, int, int, int]


def encode_runs(labels: Labels, num_classes: int) -> list[ClassRuns]:
    """Encode the pixels of each class that occurs; labels from `num_classes` on are ignored pixels.

    Runs go down the columns of the image; the first one counts pixels outside the class.

    Shape: (H, W).
    """
    height = labels.shape[0]
    flat = labels.T.reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(starts[1:], flat.size)
    values = flat[starts]
    order = np.argsort(values, kind="stable")
    order = order[: np.searchsorted(values[order], num_classes)]
    starts, ends, values = starts[order], ends[order], values[order].astype(np.int64)
    first = np.flatnonzero(np.diff(values, prepend=-1))  # run of each class
    if not len(first):
        return []
    gaps = starts - np.concatenate([[0], ends[:-1]])
    gaps[first] = starts[first]
    last = np.append(first[1:], len(starts)) - 1
    rest = flat.size - ends[last]
    positions = 2 * last + 2 + np.arange(len(last))  # of the rest, in the runs of all classes
    runs = np.insert(np.stack([gaps, ends - starts], 1).reshape(-1), 2 * (last + 1), rest)
    kept = np.ones(len(runs), np.bool_)
    kept[positions] = rest > 0
    offsets = np.concatenate([[0], np.cumsum(kept)])[np.concatenate([[0], positions + 1])]
    text, ends_of_text = _pack(runs[kept], offsets)
    areas = np.add.reduceat(ends - starts, first)
    boxes = _boxes(starts, ends, first, height)
    return [
        ClassRuns(label, text[begin:end], area, (box[0], box[1], box[2], box[3]))
        for label, begin, end, area, box in zip(
            values[first].tolist(), ends_of_text[:-1], ends_of_text[1:], areas.tolist(), boxes.tolist(), strict=True
        )
    ]


def _pack(runs: NDArray[np.int64], offsets: NDArray[np.int64]) -> tuple[str, list[int]]:
    """Pack run lengths to text: 5 bits per character, the sixth tells that more follow.

    From the fourth run of a class on, the difference to the length two before is packed. `offsets` are the first runs
    of the classes, and the number of runs. Returns the text of all classes, and the offsets of the classes in it.
    """
    place = np.arange(len(runs)) - np.repeat(offsets[:-1], np.diff(offsets))
    values = runs.copy()
    later = np.flatnonzero(place > 2)
    values[later] -= runs[later - 2]
    characters = np.zeros((len(runs), 13), np.uint8)  # 64 bits
    pending = np.arange(len(runs))
    for column in range(characters.shape[1]):
        bits = values & 0x1F
        values >>= 5
        more = np.where(bits & 0x10, values != -1, values != 0)
        characters[pending, column] = bits + 0x20 * more + 48
        pending, values = pending[more], values[more]
        if not len(pending):
            break
    written = characters > 0
    lengths = np.concatenate([[0], np.cumsum(written.sum(1))])
    return characters[written].tobytes().decode("ascii"), lengths[offsets].tolist()


def _boxes(
    starts: NDArray[np.int64], ends: NDArray[np.int64], first: NDArray[np.int64], height: int
) -> NDArray[np.int64]:
    """Compute the bounding boxes of classes from their runs; a run over several columns spans all rows.

    Shape: -> (classes, 4), x, y, width and height.
    """
    left, right = starts // height, (ends - 1) // height
    top, bottom = starts % height, (ends - 1) % height
    across = left != right
    top[across], bottom[across] = 0, height - 1
    x, y = np.minimum.reduceat(left, first), np.minimum.reduceat(top, first)
    return np.stack([x, y, np.maximum.reduceat(right, first) - x + 1, np.maximum.reduceat(bottom, first) - y + 1], 1)
