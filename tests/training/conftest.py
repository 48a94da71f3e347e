"""Tiny data sets in the official layouts, small recipes on them, and runs in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from atrous.data.datasets import ade20k, camvid, cityscapes, pascal_context, person_part, voc
from atrous.files import read_csv
from atrous.imaging.labels import save_labels
from atrous.models import create_model
from atrous.training.recipe import Recipe, make_recipe

SOURCE = Path(__file__).parents[2] / "src"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
MODEL = "deeplab_v3_plus.mobilenet_v2"


def draw_pair(seed: int, classes: int, height: int = 60, width: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """An image and labels: a few rectangles whose colors tell their classes, with noise."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.uint8)
    for _ in range(4):
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        labels[top : top + height // 2, left : left + width // 2] = rng.integers(0, classes)
    image = np.stack([(labels.astype(int) * factor) % 256 for factor in (23, 71, 149)], -1) + rng.integers(
        0, 20, (height, width, 3)
    )
    return np.clip(image, 0, 255).astype(np.uint8), labels


def write_pair(image: Path, mask: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(image)
    save_labels(labels, voc.COLORS, mask)


def write_camvid(root: Path, train: int = 6, val: int = 3) -> Path:
    for split, count, first in (("train", train, 0), ("val", val, 100)):
        names = [f"{split}_{number}" for number in range(count)]
        for number, name in enumerate(names):
            pixels, labels = draw_pair(first + number, len(camvid.CLASSES))
            labels[0, :3] = camvid.VOID
            write_pair(root / split / f"{name}.png", root / f"{split}annot" / f"{name}.png", pixels, labels)
        lines = [f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png" for name in names]
        (root / f"{split}.txt").write_text("\n".join(lines))
    return root


def write_voc(root: Path) -> Path:
    lists = root / voc.LISTS
    lists.mkdir(parents=True)
    names = [f"2007_{number:06}" for number in range(4)]
    for number, name in enumerate(names):
        pixels, labels = draw_pair(200 + number, len(voc.CLASSES))
        labels[:2] = 255
        labels[2:4] = voc.CLASSES.index("chair")
        for masks in (voc.MASKS, voc.AUGMENTED_MASKS):
            write_pair(root / "JPEGImages" / f"{name}.jpg", root / masks / f"{name}.png", pixels, labels)
    splits = {"train": names[:2], "trainaug": names[:3], "trainval": names, "val": names[3:], "seg11valid": names[3:]}
    for split, chosen in splits.items():
        (lists / f"{split}.txt").write_text("\n".join(chosen))
    return root


def write_sbd(root: Path) -> Path:
    scipy_io = pytest.importorskip("scipy.io", reason="SBD's masks are MATLAB files: needs scipy")
    names = ["2008_000002", "2008_000003"]
    for folder in ("img", "cls"):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate(names):
        pixels, labels = draw_pair(300 + number, len(voc.CLASSES))
        Image.fromarray(pixels).save(root / "img" / f"{name}.jpg")
        scipy_io.savemat(root / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": labels}})
    for split in ("train", "val"):
        (root / f"{split}.txt").write_text("\n".join(names))
    return root


def write_coco(root: Path) -> Path:
    (root / "annotations").mkdir(parents=True)
    (root / "train2017").mkdir()
    images, annotations = [], []
    for number in range(2):
        pixels, _ = draw_pair(400 + number, 21)
        Image.fromarray(pixels).save(root / "train2017" / f"{number:012}.jpg")
        images.append({"id": number, "file_name": f"{number:012}.jpg", "height": 60, "width": 80})
        outline = [5.0, 5.0, 75.0, 5.0, 75.0, 50.0, 5.0, 50.0]
        annotations.append(
            {
                "id": number + 1,
                "image_id": number,
                "category_id": 1 + 16 * number,
                "segmentation": [outline],
                "area": 3150.0,
                "iscrowd": 0,
                "bbox": [5, 5, 70, 45],
            }
        )
    categories = [{"id": 1, "name": "person"}, {"id": 17, "name": "cat"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    return root


def write_cityscapes(root: Path) -> Path:
    for split, city, count in (("train", "aachen", 2), ("val", "frankfurt", 1), ("train_extra", "augsburg", 2)):
        for number in range(count):
            stem = f"{city}_{number:06}_000019"
            pixels, labels = draw_pair(500 + number, len(cityscapes.CLASSES), 64, 128)
            for masks in ("gtCoarse",) if split == "train_extra" else ("gtFine", "gtCoarse"):
                write_pair(
                    root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png",
                    root / masks / split / city / f"{stem}_{masks}_labelIds.png",
                    pixels,
                    np.array(cityscapes.LABEL_IDS, np.uint8)[labels],
                )
    return root


def write_ade20k(root: Path) -> Path:
    for place, prefix, count in (("training", "ADE_train_", 3), ("validation", "ADE_val_", 1)):
        for number in range(count):
            pixels, labels = draw_pair(700 + number, len(ade20k.CLASSES))
            name = f"{prefix}{number + 1:08}"
            image, mask = root / "images" / place / f"{name}.jpg", root / "annotations" / place / f"{name}.png"
            write_pair(image, mask, pixels, labels + 1)
    return root


def write_voc2010(root: Path, classes: int, masks: str, lists: str) -> Path:
    """Write masks that were added to VOC 2010, with their lists."""
    for split, count in (("train", 3), ("val", 1)):
        names = [f"2008_{number:06}" for number in range(count)] if split == "train" else ["2010_000001"]
        for number, name in enumerate(names):
            pixels, labels = draw_pair(800 + number, classes)
            write_pair(root / "JPEGImages" / f"{name}.jpg", root / masks / f"{name}.png", pixels, labels)
        (root / lists).mkdir(parents=True, exist_ok=True)
        (root / lists / f"{split}.txt").write_text("\n".join(names))
    return root


def write_pascal_context(root: Path) -> Path:
    return write_voc2010(root, len(pascal_context.CLASSES), "59_context_labels", "ImageSets/Main")


def write_person_part(root: Path) -> Path:
    return write_voc2010(root, len(person_part.CLASSES), "pascal_person_part_gt", "pascal_person_part_trainval_list")


def write_cells(root: Path) -> Path:
    """Write a folder whose masks number the objects."""
    return write_folder(root, coding="instances")


def write_folder(
    root: Path, classes: tuple[str, ...] = ("outside", "cell"), images: int = 4, coding: str = "auto"
) -> Path:
    for split, numbers in (("train", range(images)), ("val", range(images, images + 1))):
        for number in numbers:
            pixels, labels = draw_pair(600 + number, len(classes) if coding == "auto" else 4)
            name = f"{split}/{number}.png"
            write_pair(root / "images" / name, root / "masks" / name, pixels, labels)
    (root / "classes.yaml").write_text(
        f"classes: [{', '.join(classes)}]\nimages: images/{{split}}\nmasks: masks/{{split}}\ncoding: {coding}\n"
    )
    return root


WRITERS: dict[str, Callable[[Path], Path]] = {
    "camvid": write_camvid,
    "voc2012": write_voc,
    "sbd": write_sbd,
    "coco_voc": write_coco,
    "cityscapes": write_cityscapes,
    "folder": write_cells,
    "ade20k": write_ade20k,
    "pascal_context": write_pascal_context,
    "person_part": write_person_part,
}
"""Functions that write a made-up data set in its official layout, by the name of the data set."""


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The spec of a tiny data set of a name, in its official layout."""
    specs: dict[str, str] = {}

    def make(name: str) -> str:
        if name not in specs:
            assert name in WRITERS, f"a recipe uses {name}: add a function that writes it in miniature to WRITERS"
            specs[name] = f"{name}:{WRITERS[name](tmp_path_factory.mktemp('data') / name)}"
        return specs[name]

    return make


def small(data: str, *overrides: str, stages: Sequence[Mapping[str, Any]] = ({},)) -> Recipe:
    """A recipe that takes seconds: `data` in CamVid's layout, an eighth of the width, four steps."""
    tree = {
        "name": "small",
        "model": {"id": MODEL, "options": {"width": 0.125}},
        "data": {"train": f"{data}?split=train", "val": f"{data}?split=val"},
        "transforms": [{"crop": {"height": 33, "width": 41}}, "flip"],
        "steps": 4,
        "batch": 4,
        "workers": 0,
        "checkpoint_every": 2,
        "stages": stages,
    }
    return make_recipe(tree, overrides)


def tiny_model(**options: Any) -> torch.nn.Module:
    """The network of `small` with CamVid's 11 classes, the same at each call."""
    torch.manual_seed(0)
    return create_model(MODEL, width=0.125, num_classes=11, **options)


@pytest.fixture(scope="session")
def street(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny CamVid."""
    return f"camvid:{write_camvid(tmp_path_factory.mktemp('street') / 'camvid')}"


@pytest.fixture
def _one_thread() -> None:
    torch.set_num_threads(1)


def command(recipe_file: Path, folder: Path, *more: str) -> list[str]:
    """The arguments of Python for `atrous train`."""
    return ["-m", "atrous.cli.main", "train", str(recipe_file), "--out", str(folder), "--no-check", *more]


def start(arguments: list[str], *, own_group: bool = False) -> subprocess.Popen[str]:
    """Start Python on the sources, on one thread; in a process group of its own to signal all its processes."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=own_group,
    )


def run_on_two_processes(path: Path, folder: Path, *more: str) -> None:
    """Train under `torchrun`, over gloo."""
    port = str(20000 + os.getpid() % 20000)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    done = subprocess.run(
        [sys.executable, *launcher, *command(path, folder, "--device", "cpu", *more)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def losses(folder: Path) -> list[tuple[str, str, str]]:
    """Stage, step and loss of every step of a run."""
    return [(row["stage"], row["step"], row["loss"]) for row in read_csv(folder / "log.csv")]


def press_ctrl_c(progress: Any) -> None:
    """Press Ctrl-C after the first step."""
    if progress.step == 1:
        os.kill(os.getpid(), signal.SIGINT)
