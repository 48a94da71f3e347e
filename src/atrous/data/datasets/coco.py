"""COCO three ways: things as the 21 classes of VOC, COCO-Stuff, and the panoptic masks.

Source: Lin et al.: Microsoft COCO: Common Objects in Context, ECCV 2014; Caesar, Uijlings, Ferrari: COCO-Stuff: Thing
and Stuff Classes in Context, CVPR 2018, with its `labels.txt`; Kirillov et al.: Panoptic Segmentation, CVPR 2019.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from atrous.data.dataset import DATASETS, Item, SegmentationDataset
from atrous.data.datasets import voc
from atrous.data.layout import check_choice, existing, first_of, pair, pair_folders
from atrous.errors import AtrousError
from atrous.imaging.labels import Labels, MaskReader, label_dtype, pack_rgb, read_raw_mask, voc_color_map
from atrous.registry import Paper

_STUFF = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, street
    sign, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe,
    hat, backpack, umbrella, shoe, eye glasses, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball,
    kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, plate, wine glass, cup,
    fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake,
    chair, couch, potted plant, bed, mirror, dining table, window, desk, toilet, door, tv, laptop, mouse,
    remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, blender, book, clock, vase,
    scissors, teddy bear, hair drier, toothbrush, hair brush, banner, blanket, branch, bridge, building-other,
    bush, cabinet, cage, cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter,
    cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile,
    floor-wood, flower, fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house,
    leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow,
    plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand,
    sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table, tent,
    textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel, wall-stone,
    wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood
"""
STUFF_CLASSES = tuple(" ".join(name.split()) for name in _STUFF.split(","))
"""COCO's ids 1 to 182: things to 91, stuff from 92."""
REMOVED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
"""The ids COCO planned and never annotated; without them the 182 classes are 171."""

VOC_CATEGORIES = {
    5: "aeroplane",
    2: "bicycle",
    16: "bird",
    9: "boat",
    44: "bottle",
    6: "bus",
    3: "car",
    17: "cat",
    62: "chair",
    21: "cow",
    67: "diningtable",
    18: "dog",
    19: "horse",
    4: "motorbike",
    1: "person",
    64: "pottedplant",
    20: "sheep",
    63: "sofa",
    7: "train",
    72: "tvmonitor",
}
"""COCO's category ids of the classes of VOC."""

SUBSETS = {"all": 0, "crf_rnn": 200, "v3": 1001}
"""The least number of pixels of VOC's classes an image must have.

Source: CRF-RNN (Zheng et al., arXiv 1502.03240), "at least 200 pixels"; DeepLab v3 (Chen et al., arXiv 1706.05587),
more than 1000.
"""

COCO = Paper(
    title="Microsoft COCO: Common Objects in Context",
    authors="Lin, Maire, Belongie, Hays",
    year=2014,
    arxiv="1405.0312",
)
STUFF = Paper(
    title="COCO-Stuff: Thing and Stuff Classes in Context",
    authors="Caesar, Uijlings, Ferrari",
    year=2018,
    arxiv="1612.03716",
)
PANOPTIC = Paper(
    title="Panoptic Segmentation", authors="Kirillov, He, Girshick, Rother, Dollar", year=2019, arxiv="1801.00868"
)
SPLITS = ("train2017", "val2017")


@dataclass(frozen=True)
class Region:
    """One annotated object: its label, and polygons (points (n, 2), float32) or run lengths, or both absent."""

    label: int
    polygons: tuple[NDArray[np.float32], ...] = ()
    runs: tuple[int, ...] = ()


@dataclass(frozen=True)
class RegionReader:
    """Labels drawn from the regions of an image; where two classes overlap it is not known which is in front: ignored.

    So does torchvision, whose released weights were trained on it.
    """

    sizes: Mapping[str, tuple[int, int]]
    regions: Mapping[str, tuple[Region, ...]]
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


def draw_region(region: Region, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """The pixels of a region. Polygons are filled by OpenCV: their borders may be a pixel off those of pycocotools.

    Shape: -> (H, W).
    """
    if region.runs:
        values = np.arange(len(region.runs)) % 2 == 1
        return np.repeat(values, region.runs).reshape(size[::-1]).T  # runs go down the columns
    mask = np.zeros(size, np.uint8)
    fixed = [np.round((points - 0.5) * 16).astype(np.int32) for points in region.polygons]  # pixel centers; 1/16 pixel
    for points in fixed:  # one by one: where two polygons of an object overlap, filling them at once leaves a hole
        cv2.fillPoly(mask, [points], 1, shift=4)
    return mask.astype(bool)


def decode_runs(counts: str | Sequence[int]) -> tuple[int, ...]:
    """The lengths of the runs of background and object in turn, from a list or from COCO's packed text.

    Source: `rleFrString` of the COCO API (`maskApi.c`): 5 bits a character, the sixth says that more follow; from the
    fourth on, lengths are differences to the length two before.
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


@DATASETS.register("coco_voc", COCO)
def coco_voc(*, root: Path, split: str = "train2017", subset: str = "", instances: str = "") -> SegmentationDataset:
    """COCO's things as the 21 classes of VOC: `train2017/`, `annotations/instances_train2017.json`.

    `subset` is "v3" (images with more than 1000 pixels of VOC's classes, the default for training), "crf_rnn" (200 or
    more) or "all" (the default for val2017). `instances` names another file of annotations.
    """
    subset = subset or ("v3" if split.startswith("train") else "all")
    check_choice("coco_voc", "subset", subset, SUBSETS)
    images = first_of(root, split, f"images/{split}")
    path = first_of(root, instances or f"annotations/instances_{split}.json")
    content = read_json(path, ("images", "annotations"))
    with _understanding(path):
        return _things(
            content, path, images, split, SUBSETS[subset], existing(root, SPLITS, "annotations/instances_{}.json")
        )


def _things(
    content: dict[str, Any], path: Path, images: Path, split: str, least: int, splits: tuple[str, ...]
) -> SegmentationDataset:
    sizes: dict[str, tuple[int, int]] = {}
    names: dict[int, str] = {}
    files: dict[str, Path] = {}
    for image in content["images"]:
        name = Path(image["file_name"]).stem
        names[image["id"]] = name
        sizes[name] = (image["height"], image["width"])
        files[name] = images / image["file_name"]
    regions: dict[str, list[Region]] = {name: [] for name in sizes}
    areas = dict.fromkeys(sizes, 0.0)
    for annotation in content["annotations"]:
        label = _LABEL_OF.get(annotation["category_id"])
        if label is not None:
            name = names[annotation["image_id"]]
            regions[name].append(_region(annotation, label, sizes[name], path))
            areas[name] += annotation["area"]
    kept = sorted(name for name, area in areas.items() if area >= least)
    return SegmentationDataset(
        name="coco_voc",
        split=split,
        items=tuple(Item(name, files[name], path) for name in kept),
        classes=voc.CLASSES,
        colors=voc.COLORS,
        reader=RegionReader({name: sizes[name] for name in kept}, {name: tuple(regions[name]) for name in kept}),
        splits=splits,
    )


_LABEL_OF = {category: voc.CLASSES.index(name) for category, name in VOC_CATEGORIES.items()}


def _region(annotation: Mapping[str, Any], label: int, size: tuple[int, int], path: Path) -> Region:
    shape = annotation["segmentation"]
    if isinstance(shape, list):
        return Region(label, polygons=tuple(np.array(flat, np.float32).reshape(-1, 2) for flat in shape))
    runs = decode_runs(shape["counts"])
    if sum(runs) != size[0] * size[1] or min(runs, default=0) < 0:
        raise AtrousError(
            f"{path}: annotation {annotation.get('id')} has run lengths of {sum(runs)} pixels for an image of "
            f"{size[1]} x {size[0]}. The file is damaged; fetch it anew."
        )
    return Region(label, runs=runs)


def read_json(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """An annotation file of COCO.

    Raises: `AtrousError` for a file that is missing, no JSON, or without these keys.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise AtrousError(f"{path}: cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise AtrousError(f"{path}: not a JSON file, or a damaged one ({error}). Fetch it anew.") from error
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise AtrousError(f"{path}: no annotations of COCO: '{missing[0]}' is not in it.")
    return content


@contextmanager
def _understanding(path: Path) -> Iterator[None]:
    """What is not as COCO's files have it, found in the block, becomes an `AtrousError`."""
    try:
        yield
    except AtrousError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise AtrousError(
            f"{path}: not as COCO's annotations are: {type(error).__name__} {error}. Is it the right file?"
        ) from error


@DATASETS.register("coco_stuff", STUFF)
def coco_stuff(
    *, root: Path, split: str = "train2017", classes: int = 171, images: str = "", masks: str = ""
) -> SegmentationDataset:
    """COCO-Stuff's pixel maps: `train2017/*.jpg`, `stuffthingmaps/train2017/*.png`.

    Of the 182 classes 171 occur, which are counted through; with `classes=182` the 11 others keep their places.
    `images` and `masks` name other folders.
    """
    check_choice("coco_stuff", "number of classes", str(classes), ("171", "182"))
    pictures = first_of(root, *((images,) if images else (split, f"images/{split}")))
    maps = first_of(root, *((masks,) if masks else (f"stuffthingmaps/{split}", f"annotations/{split}")))
    ids = [number for number in range(1, 183) if classes == 182 or number not in REMOVED]
    chosen = tuple(STUFF_CLASSES[number - 1] for number in ids)
    return SegmentationDataset(
        name="coco_stuff",
        split=split,
        items=tuple(pair_folders(pictures, maps)),
        classes=chosen,
        colors=voc_color_map(len(chosen) + 1)[1:],
        reader=MaskReader(chosen, values={number - 1: label for label, number in enumerate(ids)} | {255: 255}),
        splits=existing(root, SPLITS, "stuffthingmaps/{}") or (split,),
    )


@dataclass(frozen=True)
class PanopticReader:
    """Labels from a panoptic mask, whose colors are the numbers of segments: id = R + 256 G + 65536 B, 0 is void."""

    segments: Mapping[str, Mapping[int, int]]
    """Of each image the label of each segment."""
    num_classes: int
    ignore_index: int = 255

    def __call__(self, item: Item) -> Labels:
        assert item.mask is not None
        packed = pack_rgb(read_raw_mask(item.mask, as_colors=True)[..., ::-1])
        table = {0: self.ignore_index, **self.segments[item.name]}
        ids = np.array(sorted(table), np.uint32)
        place = np.minimum(np.searchsorted(ids, packed), len(ids) - 1)
        strange = ids[place] != packed
        if strange.any():
            raise AtrousError(
                f"{item.mask}: segment {packed[strange][0]} ({np.count_nonzero(strange)} px in such) is not in the "
                f"JSON file, which knows {len(ids) - 1} segments of this image. They do not belong together."
            )
        labels = np.array([table[number] for number in ids.tolist()])
        return labels.astype(label_dtype(self.num_classes, self.ignore_index))[place]


@DATASETS.register("coco_panoptic", PANOPTIC)
def coco_panoptic(
    *, root: Path, split: str = "train2017", images: str = "", masks: str = "", annotations: str = ""
) -> SegmentationDataset:
    """COCO's panoptic masks as classes: `annotations/panoptic_train2017.json`, `annotations/panoptic_train2017/*.png`.

    The classes and colors, 80 things and 53 kinds of stuff, are those of the JSON file, in its order. `images`,
    `masks` and `annotations` name other places.
    """
    path = first_of(root, annotations or f"annotations/panoptic_{split}.json")
    maps = first_of(root, *((masks,) if masks else (f"annotations/panoptic_{split}", f"panoptic_{split}")))
    pictures = first_of(root, *((images,) if images else (split, f"images/{split}")))
    content = read_json(path, ("annotations", "categories"))
    with _understanding(path):
        categories = content["categories"]
        label_of = {category["id"]: label for label, category in enumerate(categories)}
        colors = tuple((int(r), int(g), int(b)) for r, g, b in (category["color"] for category in categories))
        segments = {
            Path(entry["file_name"]).stem: {
                part["id"]: label_of[part["category_id"]] for part in entry["segments_info"]
            }
            for entry in content["annotations"]
        }
    return SegmentationDataset(
        name="coco_panoptic",
        split=split,
        items=tuple(pair(sorted(segments), pictures, maps)),
        classes=tuple(category["name"] for category in categories),
        colors=colors,
        reader=PanopticReader(segments, len(categories)),
        splits=existing(root, SPLITS, "annotations/panoptic_{}.json") or (split,),
    )
