"""Logs of a run: steps, evaluations, curves and sample predictions, in files that are readable at any time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atrous.data.dataset import Sample, SegmentationDataset
from atrous.errors import describe_unexpected
from atrous.evaluation.confusion import ConfusionMatrix
from atrous.files import CsvFile, damaged_log_error, read_csv, writing
from atrous.imaging.draw import Comparison, comparison_sheet
from atrous.imaging.io import save_image

STEP_COLUMNS = ("stage", "step", "loss", "lr", "seconds", "data_seconds")
"""Columns of log.csv; `data_seconds` is the part of `seconds` spent waiting for images."""
STEP_NUMBERS = ("loss", "lr")
"""Columns of log.csv that are drawn."""
METRICS = ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")


class StageLog:
    """Log a stage to log.csv, evaluations.csv and tensorboard.

    `stages` are the names of all stages, `number` is the index of this one, `start` the step it resumes from;
    rows of later steps are dropped.
    """

    def __init__(self, folder: Path, stages: Sequence[str], number: int, start: int, classes: Sequence[str]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.stage = stages[number]
        evaluation_columns = ("stage", "step", *METRICS, *(f"iou {name}" for name in classes))

        read_log(folder / "log.csv", STEP_NUMBERS, stages)
        read_log(folder / "evaluations.csv", METRICS[:1], stages)

        def is_earlier(row: Mapping[str, str]) -> bool:
            return (stages.index(row["stage"]), int(row["step"])) <= (number, start)

        self.steps = CsvFile(folder / "log.csv", STEP_COLUMNS, keep=is_earlier)
        self.evaluations = CsvFile(folder / "evaluations.csv", evaluation_columns, keep=is_earlier)
        self.tensorboard = SummaryWriter(str(folder / "tensorboard" / self.stage), purge_step=start + 1)

    def add_step(self, step: int, loss: float, lr: float, *, seconds: float, data_seconds: float) -> None:
        """Log an optimizer step."""
        times = {"seconds": round(seconds, 4), "data_seconds": round(data_seconds, 4)}
        self.steps.add({"stage": self.stage, "step": step, "loss": repr(loss), "lr": lr, **times})
        self.tensorboard.add_scalar("loss", loss, step)
        self.tensorboard.add_scalar("learning rate", lr, step)

    def add_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an evaluation."""
        self.evaluations.add({"stage": self.stage, "step": step, **metrics})
        for name in METRICS:
            self.tensorboard.add_scalar(name, metrics[name], step)

    def close(self) -> None:
        """Flush and close tensorboard."""
        self.tensorboard.close()


def compute_metrics(matrix: ConfusionMatrix, classes: Sequence[str]) -> dict[str, float]:
    """Compute the mean metrics of a confusion matrix, and the IoU of each class."""
    return {name: float(getattr(matrix, name)) for name in METRICS} | {
        f"iou {name}": float(iou) for name, iou in zip(classes, matrix.iou, strict=True)
    }


def read_log(path: Path, numbers: Sequence[str], stages: Collection[str] | None = None) -> list[dict[str, str]]:
    """Read the rows of a log of steps or evaluations.

    Raises: `AtrousError` for a row without stage and step, another stage than `stages`, or a column among `numbers`
    that is no number.
    """
    rows = read_csv(path)
    for number, row in enumerate(rows, start=1):
        try:
            int(row["step"])
            for column in numbers:
                float(row[column])
        except (KeyError, ValueError) as error:
            raise damaged_log_error(path, f"row {number}, {describe_unexpected(error)}") from error
        if "stage" not in row or (stages is not None and row["stage"] not in stages):
            raise damaged_log_error(path, f"row {number} is of none of the stages of the run")
    return rows


def draw_curves(folder: Path) -> None:
    """Plot loss, learning rate and mIoU over the steps of all stages, from the logs in a run folder to curves.png.

    Raises: `AtrousError` for a damaged log.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_log(folder / "log.csv", STEP_NUMBERS)
    position = {(row["stage"], row["step"]): number for number, row in enumerate(rows, start=1)}
    figure = Figure(figsize=(9, 8), layout="constrained")
    FigureCanvasAgg(figure)
    loss, rate, quality = axes = figure.subplots(3, 1, sharex=True)
    losses = np.array([float(row["loss"]) for row in rows])
    loss.plot(np.arange(1, len(losses) + 1), losses, color="0.8", linewidth=0.8)
    window = max(1, len(losses) // 50)
    if len(losses) >= window:
        smooth = np.convolve(losses, np.ones(window) / window, "valid")
        loss.plot(np.arange(window, len(losses) + 1), smooth, color="tab:blue")
    rate.plot(np.arange(1, len(rows) + 1), [float(row["lr"]) for row in rows], color="tab:orange")
    evaluations = read_log(folder / "evaluations.csv", METRICS[:1])
    points = [(position.get((row["stage"], row["step"]), 0), float(row["miou"])) for row in evaluations]
    quality.plot([x for x, _ in points], [100 * y for _, y in points], "o-", color="tab:green")
    quality.set_xlabel("step")
    for axis, label in zip(axes, ("loss", "learning rate", "mIoU, %"), strict=True):
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    with writing(folder / "curves.png") as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def draw_samples(path: Path, samples: Sequence[Sample], predictions: Sequence[Any], data: SegmentationDataset) -> None:
    """Draw images with their ground truth beside the prediction, a row each, with name and mIoU."""
    rows = []
    for sample, prediction in zip(samples, predictions, strict=True):
        labels = np.asarray(prediction).astype(sample.labels.dtype)
        matrix = ConfusionMatrix(len(data.classes), ignore_index=data.ignore_index)
        matrix.update(sample.labels, labels, name=sample.name)
        caption = f"{sample.name}: mean IoU {100 * matrix.miou_of_truth:.2f}; image, ground truth, prediction"
        rows.append(Comparison(sample.image, sample.labels, labels, caption))
    if rows:
        save_image(comparison_sheet(rows, data.classes, data.colors), path)
