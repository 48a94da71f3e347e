"""COCO-Stuff: every pixel of COCO's images labeled, with 91 kinds of objects ("things") and 91 kinds of "stuff".

Source: Caesar, Uijlings, Ferrari: COCO-Stuff: Thing and Stuff Classes in Context, CVPR 2018; classes from its
`labels.txt`.
"""

from __future__ import annotations

from pathlib import Path

from atrous.data.coco_annotations import SPLITS
from atrous.data.dataset import DATASETS, SegmentationDataset
from atrous.data.layout import check_choice, existing_splits, first_existing, in_collection, pair_folders
from atrous.imaging.labels import MaskReader, voc_color_map
from atrous.registry import Paper

_NAMES = """
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
CLASSES = tuple(" ".join(name.split()) for name in _NAMES.split(","))
"""The classes of COCO's ids 1 to 182: things up to 91, stuff from 92."""
REMOVED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
"""The ids that COCO never annotated; without them the 182 classes are 171."""
PAPER = Paper(
    title="COCO-Stuff: Thing and Stuff Classes in Context",
    authors="Caesar, Uijlings, Ferrari",
    year=2018,
    arxiv="1612.03716",
)


@DATASETS.register("coco_stuff", PAPER)
def coco_stuff(
    *, root: Path, split: str = "train2017", classes: int = 171, images: str = "", masks: str = ""
) -> SegmentationDataset:
    """COCO-Stuff's label maps: `train2017/*.jpg`, `stuffthingmaps/train2017/*.png`.

    171 of the 182 classes occur and are numbered consecutively; with `classes=182` the 11 others keep their numbers.
    `images` and `masks` name other folders.
    """
    check_choice("coco_stuff", "number of classes", str(classes), ("171", "182"))
    image_folder = first_existing(root, *((images,) if images else (split, f"images/{split}")))
    mask_folder = first_existing(root, *((masks,) if masks else (f"stuffthingmaps/{split}", f"annotations/{split}")))
    ids = [number for number in range(1, 183) if classes == 182 or number not in REMOVED]
    chosen = tuple(CLASSES[number - 1] for number in ids)
    return SegmentationDataset(
        name="coco_stuff",
        split=split,
        items=in_collection("coco", pair_folders(image_folder, mask_folder)),
        classes=chosen,
        colors=voc_color_map(len(chosen) + 1)[1:],
        reader=MaskReader(chosen, values={number - 1: label for label, number in enumerate(ids)} | {255: 255}),
        splits=existing_splits(root, SPLITS, "stuffthingmaps/{}") or (split,),
    )
