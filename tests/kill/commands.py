"""Commands that write files, what they are given, and their outcomes, which have to be the same after a kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from atrous.card import Card, Preprocessing
from atrous.files import read_csv
from atrous.imaging.labels import voc_color_map
from atrous.inference.engines.cache import _is_complete as is_complete
from atrous.models import build_from_card
from atrous.weights import read_card, save
from tests.data_fixtures import photograph

Outcome = dict[str, Any]
CLASSES = ("background", "road", "tree")
TRAINING = (
    *("--model", "deeplab_v3_plus.mobilenet_v2", "--no-check", "model.options.width=0.125", "backbone_weights=none"),
    *("transforms=[{crop: {height: 33, width: 33}}]", "batch=2", "workers=0", "steps=6", "evaluate.every=2"),
    *("checkpoint_every=2", "--out", "run"),
)


@dataclass(frozen=True)
class Site:
    """A folder with inputs: photographs, a clip, a data set and the weights of a small network."""

    folder: Path

    @property
    def photographs(self) -> Path:
        return self.folder / "photographs"

    @property
    def clip(self) -> Path:
        return self.folder / "clip.avi"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def engines(self) -> Path:
        """The converted networks of earlier commands."""
        return self.folder / "engines"


def make_site(folder: Path) -> Site:
    """Write all inputs, from fixed seeds."""
    import torch

    site = Site(folder)
    for name, count in (("photographs", 6), ("data/images", 4)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(photograph(number, (40, 48))).save(folder / name / f"{number}.png")
    (site.data / "masks").mkdir()
    for number in range(4):
        labels = np.full((40, 48), number % 3, np.uint8)
        labels[:8], labels[8:20] = 255, 1
        Image.fromarray(labels).save(site.data / "masks" / f"{number}.png")
    (site.data / "classes.yaml").write_text(
        f"classes: [{', '.join(CLASSES)}]\nsplits: {{train: train.txt, val: val.txt}}\n"
    )
    (site.data / "train.txt").write_text("0\n1\n2\n")
    (site.data / "val.txt").write_text("3\n")
    writer = cv2.VideoWriter(str(site.clip), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (48, 40))
    for number in range(6):
        writer.write(photograph(number, (40, 48)))
    writer.release()
    card = Card(
        model="deeplab_v3.mobilenet_v2",
        arguments={"width": 0.125},
        classes=CLASSES,
        colors=voc_color_map(3),
        preprocessing=Preprocessing(),
        license="Apache-2.0",
    )
    torch.manual_seed(0)
    save(build_from_card(card).eval(), site.weights)
    return site


@dataclass(frozen=True)
class KilledCommand:
    """A command line, by the inputs of a site; it runs in a folder of its own."""

    arguments: Callable[[Site], tuple[str, ...]]
    copied: tuple[str, ...] = ()
    """Files of the site that the command changes, and so gets a copy of."""
    settings: tuple[tuple[str, str, Any], ...] = ()
    converted: bool = True
    """Whether the network was converted by an earlier command."""
    resumes: bool = False
    """Whether it is started again with `--resume`, once there is a run."""
    grows: tuple[str, ...] = ()
    """Files that grow line by line, whose last line may be cut where the disk is full."""
    rewritten: tuple[str, ...] = ()
    """Files that are written several times: after a failure they may be those of an earlier step, but complete."""
    kept: tuple[str, ...] = ()
    """Beginnings of the names of files that stay after a failure, from which the next start continues."""
    environment: dict[str, str] = field(default_factory=dict)

    def again(self, site: Site, folder: Path) -> tuple[str, ...]:
        """The command line that is typed after a kill."""
        resumed = self.resumes and (folder / "run" / "recipe.yaml").is_file()
        return (*self.arguments(site), "--resume") if resumed else self.arguments(site)

    def prepare(self, site: Site, folder: Path) -> dict[str, str]:
        """Create the folder of an attempt; return its environment."""
        (folder / "tmp").mkdir(parents=True)
        for name in self.copied:
            shutil.copy2(site.folder / name, folder / name)
        if self.converted and site.engines.is_dir():
            shutil.copytree(site.engines, folder / "cache" / "engines")
        return {**environment(site, folder), **self.environment}


def environment(site: Site, folder: Path) -> dict[str, str]:
    """Everything that a command writes is below its folder, temporary files too."""
    return {
        "TMPDIR": str(folder / "tmp"),
        "ATROUS_CACHE": str(folder / "cache"),
        "HF_HOME": str(folder.parent / "hf_home"),
        "MPLCONFIGDIR": str(site.folder / "matplotlib"),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "400",
    }


COMMANDS = {
    "predict": KilledCommand(
        lambda site: ("predict", str(site.photographs), "-w", str(site.weights), "-o", "out", "--probabilities")
    ),
    "predict, first use": KilledCommand(
        lambda site: ("predict", str(site.photographs), "-w", str(site.weights), "-o", "out"), converted=False
    ),
    "predict, video": KilledCommand(
        lambda site: ("predict", str(site.clip), "-w", str(site.weights), "-o", "out", "--format", "png")
    ),
    "evaluate": KilledCommand(
        lambda site: (
            "evaluate",
            "-w",
            "weights.safetensors",
            "-d",
            f"{site.data}?split=train",
            "-o",
            "out",
            "--write-card",
        ),
        copied=("weights.safetensors",),
        rewritten=("weights.safetensors",),
        kept=("out/unfinished-",),
        settings=(("atrous.evaluation.evaluate", "SAVE_INTERVAL", 0.0),),
    ),
    "train": KilledCommand(
        lambda site: ("train", "--data", str(site.data), *TRAINING),
        resumes=True,
        grows=("run/log.csv", "run/evaluations.csv"),
        rewritten=("run/curves.png", "run/best.safetensors"),
    ),
    "convert": KilledCommand(lambda site: ("data", "convert", str(site.data), "-o", "out")),
    "crf tune": KilledCommand(
        lambda site: (
            *("crf", "tune", "--data", f"{site.data}?split=train", "-w", str(site.weights), "-o", "out"),
            *("--images", "2", "--workers", "1", "--iterations", "1"),
        ),
        grows=("out/search.jsonl",),
    ),
}


def read_outcome(folder: Path) -> Outcome:
    """Read all files below a folder, hidden ones too, without times, and the commands of starts."""
    outcome: Outcome = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or path.name == ".lock" or "tensorboard" in path.parts:
            continue
        outcome[name] = _read(path)
    return outcome


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        card = read_card(path).model_dump()
        card["measured"] = [
            {**entry, "command": entry["command"].removesuffix(" --resume")} for entry in card["measured"]
        ]
        return {name: value.tobytes() for name, value in load_file(path).items()}, card
    if path.name == "checkpoint.pt":
        return "present"  # its tensors are those of last.safetensors, and an archive contains times
    if path.name == "environment.json":
        return "present"  # an entry for each start
    if path.name == "log.csv":
        return [{key: row[key] for key in ("stage", "step", "loss", "lr")} for row in read_csv(path)]
    if path.name == "results.json":
        return {key: value for key, value in json.loads(path.read_text()).items() if key not in VARYING}
    if path.name == "search.jsonl":
        return sorted(path.read_text().splitlines())
    if path.parent.name == "engines" and path.suffix == ".onnx":
        return "complete" if is_complete(path.read_bytes()) else "damaged"
    if path.suffix == ".png":
        Image.open(path).load()  # not a part of one
    return path.read_bytes()


VARYING = ("seconds", "network_seconds", "images_per_second", "sha256", "command")
"""Times, and the checksum of weights whose card was written before the kill."""
