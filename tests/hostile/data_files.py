"""Undamaged data sets, recipes and class probabilities, as small as they can be."""

from __future__ import annotations

import json
import struct
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import atrous
from atrous.card import Card, Measurement, Preprocessing
from atrous.data.convert import convert
from atrous.data.datasets import voc
from atrous.data.inspect import open_splits
from atrous.imaging.probabilities import ClassProbabilities, encode_probabilities
from atrous.marks import Mark
from atrous.weights import save
from tests.data_fixtures import photograph, write_mat
from tests.hostile.kinds import Kind
from tests.training.conftest import small, write_camvid

SIZE = (8, 6)

_CLASSES_YAML = """\
classes:
  - {name: background, color: [0, 0, 0], values: [0]}
  - {name: road, color: "#800000", values: [1, 2]}
  - name: tree
    color: [0, 128, 0]
    values: [3]
ignore: [255, [1, 2, 3]]
ignore_index: 255
coding: auto
images: images
masks: masks
mask_ending: "_gt"
splits: {train: train.txt, val: 1.0}
seed: 3
"""


def _labels(count: int) -> np.ndarray:
    return (np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % count).astype(np.uint8)


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def own_data(folder: Path, description: str = _CLASSES_YAML) -> Path:
    """Write a folder of two images and masks."""
    for number in range(2):
        _save(folder / "images" / f"{number}.png", photograph(number, SIZE))
        _save(folder / "masks" / f"{number}_gt.png", _labels(4))
    (folder / "train.txt").write_text("0\n")
    (folder / "classes.yaml").write_text(description)
    return folder


def _converted(folder: Path) -> Path:
    convert(open_splits(str(own_data(folder / "own"))), folder / "converted")
    return folder


def _coco_instances(folder: Path) -> Path:
    _save(folder / "val2017" / "7.jpg", photograph(0, SIZE))
    shapes: list[Any] = [
        [[1.0, 1.0, 5.0, 1.0, 5.0, 4.0]],
        {"counts": [10, 5, 33], "size": list(SIZE)},
        {"counts": "4370h0", "size": list(SIZE)},
    ]
    annotations = [
        {"id": number, "image_id": 7, "category_id": category, "segmentation": shape, "area": 12.5, "iscrowd": 0}
        for number, (category, shape) in enumerate(zip((1, 17, 3), shapes, strict=True))
    ]
    images = [{"id": 7, "file_name": "7.jpg", "height": SIZE[0], "width": SIZE[1]}]
    return _annotations(folder, "instances_val2017", {"images": images, "annotations": annotations})


def _coco_panoptic(folder: Path) -> Path:
    _save(folder / "val2017" / "7.jpg", photograph(0, SIZE))
    _save(folder / "panoptic_val2017" / "7.png", np.stack([_labels(3), _labels(1), _labels(1)], -1))
    categories = [
        {"id": 1, "name": "person", "color": [220, 20, 60], "isthing": 1},
        {"id": 200, "name": "rug-merged", "color": [1, 2, 3], "isthing": 0},
    ]
    parts = [{"id": 1, "category_id": 1, "area": 16}, {"id": 2, "category_id": 200, "area": 16}]
    entry = {"image_id": 7, "file_name": "7.png", "segments_info": parts}
    return _annotations(folder, "panoptic_val2017", {"annotations": [entry], "categories": categories})


def _annotations(folder: Path, name: str, content: dict[str, Any]) -> Path:
    (folder / "annotations").mkdir()
    (folder / "annotations" / f"{name}.json").write_text(json.dumps(content))
    return folder


def _sbd(folder: Path, compressed: bool) -> Path:
    scipy_io = pytest.importorskip("scipy.io", reason="SBD's masks are MATLAB files: needs scipy")
    _save(folder / "img" / "a.jpg", photograph(0, SIZE))
    if compressed:
        write_mat(folder / "cls" / "a.mat", _labels(21))
    else:
        (folder / "cls").mkdir()
        scipy_io.savemat(folder / "cls" / "a.mat", {"GTcls": {"Segmentation": _labels(21)}})
    (folder / "train.txt").write_text("a\n")
    return folder


def _context(folder: Path) -> Path:
    scipy_io = pytest.importorskip("scipy.io", reason="the masks are MATLAB files: needs scipy")
    _save(folder / "JPEGImages" / "a.jpg", photograph(0, SIZE))
    (folder / "trainval").mkdir()
    scipy_io.savemat(folder / "trainval" / "a.mat", {"LabelMap": _labels(3).astype(np.uint16) + 1})
    (folder / "labels.txt").write_text("1: accordion\n2: aeroplane\n3: bicycle\n")
    (folder / "train.txt").write_text("a\n")
    return folder


def _recipe(folder: Path) -> Path:
    recipe = small(f"camvid:{write_camvid(folder / 'camvid', 1, 1)}", stages=[{"name": "one"}, {"name": "two"}])
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    return folder / "recipe.yaml"


def _short_recipe(folder: Path) -> Path:
    data = f"camvid:{write_camvid(folder / 'camvid', 1, 1)}"
    (folder / "recipe.yaml").write_text(
        f"model: {{id: deeplab_v3_plus.mobilenet_v2, options: {{width: 0.125}}}}\n"
        f"data: {{train: '{data}?split=train', val: '{data}?split=val'}}\n"
        "optimizer: {name: sgd, lr: 1.0e-2, momentum: 0.9}\nschedule: {poly: {power: 0.9}}\nloss: cross_entropy\n"
        "crop: 33\nflip: true\nscale: [0.5, 2.0]\nsteps: 4\nbatch: 4\nworkers: 0\nlicense: CC0\nseed: 1\n"
        "stages:\n  - {name: coarse, model: {options: {output_stride: 16}}}\n  - {name: fine, freeze: [backbone]}\n"
    )
    return folder / "recipe.yaml"


def tiny_weights(path: Path) -> Path:
    """Save a narrow network of VOC's classes for images of 33 x 33."""
    torch.manual_seed(0)
    model = atrous.create_model("deeplab_v3.mobilenet_v2", width=0.125)
    preprocessing = Preprocessing(resize="pad", size=(33, 33))
    figures = (Measurement(name="mIoU", value=70.5, data="voc2012 val", command="atrous evaluate"),)
    return save(
        model,
        path,
        card=Card(
            model="deeplab_v3.mobilenet_v2",
            arguments={"width": 0.125},
            classes=voc.CLASSES,
            colors=voc.COLORS,
            preprocessing=preprocessing,
            license="CC0",
            trained_images="AAAAAAAA",
            measured=figures,
        ),
    )


def _weights(folder: Path) -> Path:
    return tiny_weights(folder / "own.safetensors")


def _card_text(content: bytes) -> bytes:
    """Take the card out of a safetensors file."""
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    card: str = header["__metadata__"]["atrous"]
    return card.encode()


def _with_card(weights: bytes, card: bytes) -> bytes:
    """Put another card into a safetensors file."""
    end = 8 + struct.unpack("<Q", weights[:8])[0]
    header = json.loads(weights[8:end])
    header["__metadata__"]["atrous"] = card.decode("utf-8", "replace")
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + weights[end:]


def _probabilities(folder: Path) -> np.ndarray:
    _save(folder / "a.png", photograph(0, SIZE))
    return np.random.default_rng(0).dirichlet([1] * 3, SIZE).transpose(2, 0, 1).astype(np.float32)


def _npy(folder: Path) -> Path:
    np.save(folder / "p.npy", _probabilities(folder))
    return folder / "p.npy"


def _npz(folder: Path) -> Path:
    colors = ((1, 2, 3), (4, 5, 6), (7, 8, 255))
    maps = ClassProbabilities(_probabilities(folder), ("road", "sky", "tree"), colors)
    (folder / "p.npz").write_bytes(encode_probabilities(maps, Mark("predict")))
    return folder / "p.npz"


def _stored_npz(folder: Path) -> Path:
    maps = _probabilities(folder)
    np.savez(folder / "p.npz", probabilities=maps, classes=np.array(["a", "b", "c"]), colors=np.zeros((3, 3), np.uint8))
    return folder / "p.npz"


def _card_kind() -> Kind:
    holder: dict[str, bytes] = {}

    def unwrap(content: bytes) -> bytes:
        holder["weights"] = content
        return _card_text(content)

    return Kind(
        _weights,
        "segmenter",
        ("info", "{path}"),
        unwrap=unwrap,
        wrap=lambda card: _with_card(holder["weights"], card),
        text=True,
        every=4,
    )


def _inspected(spec: str) -> tuple[str, ...]:
    return "inspect", spec


_CRF = ("crf", "{folder}/a.png", "{path}", "-o", "{out}")
_DRY_RUN = ("train", "{path}", "--dry-run", "--no-check")

DATA_FILES = {
    "classes.yaml": Kind(own_data, "own", _inspected("{path}"), damaged="classes.yaml", text=True, every=4),
    "short classes.yaml": Kind(
        partial(own_data, description="classes: [a, b, c, d]\n"),
        "own",
        _inspected("{path}"),
        damaged="classes.yaml",
        text=True,
        every=4,
    ),
    "list of names": Kind(own_data, "own", _inspected("{path}"), damaged="train.txt", text=True, every=4),
    "record of a conversion": Kind(
        _converted,
        "converted",
        ("data", "convert", "{path}/own", "-o", "{path}/converted"),
        damaged="converted/conversion.json",
        text=True,
        every=4,
    ),
    "coco instances": Kind(
        _coco_instances,
        "coco_voc",
        _inspected("coco_voc:{path}?split=val2017"),
        damaged="annotations/instances_val2017.json",
        text=True,
        every=4,
    ),
    "coco panoptic": Kind(
        _coco_panoptic,
        "coco_panoptic",
        _inspected("coco_panoptic:{path}?split=val2017"),
        damaged="annotations/panoptic_val2017.json",
        text=True,
        every=4,
    ),
    "mat": Kind(partial(_sbd, compressed=False), "sbd", _inspected("sbd:{path}"), damaged="cls/a.mat", every=4),
    "compressed mat": Kind(
        partial(_sbd, compressed=True), "sbd", _inspected("sbd:{path}"), damaged="cls/a.mat", every=4
    ),
    "labels of pascal context": Kind(
        _context, "pascal_context", _inspected("pascal_context:{path}"), damaged="labels.txt", text=True, every=4
    ),
    "recipe": Kind(_recipe, "recipe", _DRY_RUN, text=True, every=10, some=100),
    "short recipe": Kind(_short_recipe, "recipe", _DRY_RUN, text=True, every=10, some=100),
    "card": _card_kind(),
    "npy": Kind(_npy, "", _CRF),
    "npz": Kind(_npz, "probabilities", _CRF, every=2),
    "npz without compression": Kind(_stored_npz, "probabilities", _CRF, every=2),
}
"""The kinds of data sets, recipes and probabilities that are damaged."""
