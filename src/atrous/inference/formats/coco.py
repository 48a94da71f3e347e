"""COCO annotations: one region per class and image, as run lengths or polygons; files of many images.

Source: COCO's data format (https://cocodataset.org/#format-data), and COCO-Stuff, which annotates one region per class.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError
from atrous.files import writing
from atrous.imaging.labels import Color
from atrous.inference.formats.format import FormatOptions, Segmented
from atrous.inference.formats.polygons import join_holes, trace_polygons
from atrous.inference.formats.rle import encode_runs
from atrous.marks import Mark, SealedWriter


def coco_dataset(segmentation: Segmented, file_name: str, options: FormatOptions, mark: Mark) -> dict[str, Any]:
    """Describe a segmentation as a COCO data set of one image.

    The ids of categories are the labels. Each class that occurs has one annotation, the background too; ignored pixels
    have none. Polygons have no holes in COCO: slits of no width lead into them.
    """
    height, width = segmentation.labels.shape
    regions = _polygon_regions(segmentation, options) if options.polygons else _run_regions(segmentation)
    return {
        **_header(segmentation.classes, segmentation.colors, mark),
        "images": [{"id": 1, "file_name": file_name, "width": width, "height": height}],
        "annotations": [
            {"id": number, "image_id": 1, **region, "iscrowd": 0} for number, region in enumerate(regions, start=1)
        ],
    }


def encode_coco(segmentation: Segmented, file_name: str, options: FormatOptions, mark: Mark) -> bytes:
    """Encode a segmentation as a COCO annotation file of one image."""
    content = coco_dataset(segmentation, file_name, options, mark)
    return mark.seal(json.dumps(content, separators=(",", ":")).encode())


def _header(classes: Sequence[str], colors: Sequence[Color], mark: Mark) -> dict[str, Any]:
    categories = [
        {"id": label, "name": name, "supercategory": "", "color": list(color)}
        for label, (name, color) in enumerate(zip(classes, colors, strict=True))
    ]
    return {"info": {"description": "Semantic segmentation", "software": str(mark)}, "categories": categories}


def _run_regions(segmentation: Segmented) -> list[dict[str, Any]]:
    size = list(segmentation.labels.shape)
    return [
        {
            "category_id": runs.label,
            "segmentation": {"size": size, "counts": runs.counts},
            "area": runs.area,
            "bbox": list(runs.box),
        }
        for runs in encode_runs(segmentation.labels, len(segmentation.classes))
    ]


def _polygon_regions(segmentation: Segmented, options: FormatOptions) -> list[dict[str, Any]]:
    polygons = trace_polygons(segmentation.labels, len(segmentation.classes), simplify=options.simplify)
    by_label: dict[int, list[NDArray[np.float64]]] = {}
    for label, rings in polygons:
        by_label.setdefault(label, []).append(join_holes(rings))
    areas = polygons.areas()
    regions = []
    for label, outlines in sorted(by_label.items()):
        points = np.concatenate(outlines)
        (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
        regions.append(
            {
                "category_id": label,
                "segmentation": [shorten_numbers(outline.reshape(-1)) for outline in outlines],
                "area": float(areas[polygons.labels == label].sum()),
                "bbox": [left, top, right - left, bottom - top],
            }
        )
    return regions


def shorten_numbers(values: NDArray[np.float64]) -> list[Any]:
    """Convert coordinates to integers where all of them are whole, which are shorter in JSON."""
    whole = np.array_equal(values, np.rint(values))
    numbers: list[Any] = (values.astype(np.int64) if whole else values).tolist()
    return numbers


def merge_coco(parts: Sequence[Path], target: Path, mark: Mark) -> None:
    """Merge annotation files of one image each into one file, with consecutive ids; one of them is in memory at a time.

    Raises: `AtrousError` for a part that is not readable, and if the file cannot be written.
    """
    dump = json.JSONEncoder(separators=(",", ":")).encode
    with writing(target) as temporary, temporary.open("wb") as binary:
        file, first = SealedWriter(binary, mark), _read_part(parts[0])
        file.write(f'{{"categories":{dump(first["categories"])},"images":[')
        for number, part in enumerate(parts, start=1):
            (image,) = _read_part(part)["images"]
            file.write(f"{',' if number > 1 else ''}\n{dump({**image, 'id': number})}")
        file.write('\n],"annotations":[')
        written = 0
        for number, part in enumerate(parts, start=1):
            for annotation in _read_part(part)["annotations"]:
                written += 1
                entry = dump({**annotation, "id": written, "image_id": number})
                file.write(f"{',' if written > 1 else ''}\n{entry}")
        file.finish(f'\n],"info":{dump({**first["info"], "software": str(mark)})}}}\n')


def _read_part(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise AtrousError(f"{path}: not a complete annotation file ({error}). Remove it and run again.") from error
    return content
