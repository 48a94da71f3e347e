"""The run folder: what a training leaves behind, readable at any time, whole at any time."""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import atrous
from atrous.data.dataset import Sample, SegmentationDataset
from atrous.errors import AtrousError
from atrous.evaluation.confusion import ConfusionMatrix
from atrous.files import writing
from atrous.imaging.draw import contact_sheet
from atrous.imaging.io import save_image

STEPS = ("stage", "step", "loss", "lr", "seconds", "waited")
"""Columns of log.csv; `waited` is how much of the seconds the step waited for its images."""
FIGURES = ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")
Row = Mapping[str, Any]


class Table:
    """A CSV file that grows row by row; rows after where a training was resumed are dropped when it is opened.

    A row belongs to a `stage` and a `step` of it; `stages` are the names of all, in order.
    """

    def __init__(self, path: Path, columns: Sequence[str], stages: Sequence[str], resumed: tuple[int, int]) -> None:
        self.path = path
        self.columns = list(columns)
        kept = [row for row in read_rows(path) if (stages.index(row["stage"]), int(row["step"])) <= resumed]
        with writing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows({key: row.get(key, "") for key in self.columns} for row in kept)

    def add(self, row: Row) -> None:
        """Raises: `AtrousError` for a full disk."""
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns).writerow(row)
        except OSError as error:
            raise AtrousError(
                f"Cannot write {self.path}: {error.strerror or error}. Make room, then --resume."
            ) from error


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, without a last one that was not finished; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if None not in row.values()]


class Log:
    """The steps and evaluations of a stage as they come: log.csv, evaluations.csv, tensorboard, curves.png.

    `stages` are the names of all, `number` is the place of this one among them, `start` the step it begins after.
    """

    def __init__(self, folder: Path, stages: Sequence[str], number: int, start: int, classes: Sequence[str]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self.stage = folder, stages[number]
        judged = ("stage", "step", *FIGURES, *(f"iou {name}" for name in classes))
        self.steps = Table(folder / "log.csv", STEPS, stages, (number, start))
        self.evaluations = Table(folder / "evaluations.csv", judged, stages, (number, start))
        self.board = SummaryWriter(str(folder / "tensorboard" / self.stage), purge_step=start + 1)

    def add_step(self, step: int, *, loss: float, lr: float, seconds: float, waited: float) -> None:
        times = {"seconds": round(seconds, 4), "waited": round(waited, 4)}
        self.steps.add({"stage": self.stage, "step": step, "loss": repr(loss), "lr": lr, **times})
        self.board.add_scalar("loss", loss, step)
        self.board.add_scalar("learning rate", lr, step)

    def add_evaluation(self, step: int, judged: Mapping[str, float]) -> None:
        self.evaluations.add({"stage": self.stage, "step": step, **judged})
        for name in FIGURES:
            self.board.add_scalar(name, judged[name], step)

    def draw(self) -> None:
        """Draw the curves of all that was logged so far."""
        draw_curves(self.folder / "curves.png", read_rows(self.steps.path), read_rows(self.evaluations.path))

    def close(self) -> None:
        self.board.close()


def figures(matrix: ConfusionMatrix, classes: Sequence[str]) -> dict[str, float]:
    """What is read from a confusion matrix: the means, and the IoU of each class."""
    return {name: float(getattr(matrix, name)) for name in FIGURES} | {
        f"iou {name}": float(iou) for name, iou in zip(classes, matrix.iou, strict=True)
    }


def environment() -> dict[str, Any]:
    """Where and with what a training runs."""
    import lightning

    return {
        "atrous": atrous.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "processes": int(os.environ.get("WORLD_SIZE", 1)),
        "command": sys.argv,
        "git": _git(Path(__file__).parent),
    }


def _git(folder: Path) -> dict[str, Any] | None:
    """The commit of the code, and whether it was changed since; None outside a repository."""
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(folder), *command], capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": bool(changes)}


def write_text(path: Path, text: str) -> None:
    """Write a text at once, or not at all."""
    with writing(path) as temporary:
        temporary.write_text(text, "utf-8")


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def draw_curves(path: Path, steps: Iterable[Mapping[str, str]], judged: Iterable[Mapping[str, str]]) -> None:
    """Loss, learning rate and mIoU over the steps of all stages, as one picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = list(steps)
    place = {(row["stage"], row["step"]): number for number, row in enumerate(rows, start=1)}
    figure = Figure(figsize=(9, 8), layout="constrained")
    FigureCanvasAgg(figure)
    loss, rate, quality = figure.subplots(3, 1, sharex=True)
    losses = np.array([float(row["loss"]) for row in rows])
    loss.plot(np.arange(1, len(losses) + 1), losses, color="0.8", linewidth=0.8)
    window = max(1, len(losses) // 50)
    if len(losses) >= window:
        smooth = np.convolve(losses, np.ones(window) / window, "valid")
        loss.plot(np.arange(window, len(losses) + 1), smooth, color="tab:blue")
    loss.set_ylabel("loss")
    rate.plot(np.arange(1, len(rows) + 1), [float(row["lr"]) for row in rows], color="tab:orange")
    rate.set_ylabel("learning rate")
    points = [(place.get((row["stage"], row["step"]), 0), float(row["miou"])) for row in judged]
    quality.plot([x for x, _ in points], [100 * y for _, y in points], "o-", color="tab:green")
    quality.set_ylabel("mIoU, %")
    quality.set_xlabel("step")
    for axis in (loss, rate, quality):
        axis.grid(alpha=0.3)
    with writing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def draw_samples(path: Path, samples: Sequence[Sample], predictions: Sequence[Any], data: SegmentationDataset) -> None:
    """A page of images with what was found in them, each beside its truth."""
    pairs = []
    for sample, found in zip(samples, predictions, strict=True):
        labels = np.asarray(found).astype(sample.labels.dtype)
        pairs += [replace(sample, name=f"{sample.name}: truth"), replace(sample, labels=labels, name="found")]
    if pairs:
        save_image(contact_sheet(pairs, data.classes, data.colors), path)
