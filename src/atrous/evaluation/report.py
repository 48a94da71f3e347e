"""Report an evaluation: results as JSON, plots of trimap curve and confusion matrix, the worst images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atrous.card import Measurement
from atrous.errors import AtrousError
from atrous.evaluation.evaluate import EvaluationResult
from atrous.files import writing
from atrous.imaging.draw import Comparison, comparison_sheet
from atrous.imaging.io import save_image
from atrous.imaging.labels import Color
from atrous.marks import Mark
from atrous.weights import read_card, write_card

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARK = Mark("evaluate")
"""The mark in the files of an evaluation."""
DEFINITIONS = {
    "mIoU": "mean over classes of one confusion matrix; a class in neither truth nor prediction is left out, a class "
    "only predicted counts 0",
    "boundary IoU": "mean over classes of the IoU of the pixels that are at most 2 % of the image's diagonal away from "
    "the outline of their class",
    "boundary F": "mean over classes of the F-score of outlines, which match at a distance of at most 0.75 % of the "
    "image's diagonal; precision and recall come from counts summed over images",
    "trimap": "mIoU and pixel accuracy of the pixels at a distance of at most 1, 2, ... pixels from a boundary or an "
    "ignored pixel",
}


def result_to_dict(result: EvaluationResult, classes: Sequence[str], **settings: Any) -> dict[str, Any]:
    """Collect settings, metrics, per-class metrics and counts in a dictionary for JSON; undefined values are None."""
    per_class = result.confusion.per_class(classes)
    if result.boundary is not None:
        for name, iou, f_score in zip(classes, result.boundary.iou, result.boundary.f_score, strict=True):
            per_class[name] |= {"boundary_iou": float(iou), "boundary_f": float(f_score)}
    report = {
        **settings,
        "images": len(result.image_scores),
        "metrics": result.metrics(),
        "classes": per_class,
        "definitions": DEFINITIONS,
        "confusion": result.confusion.counts.tolist(),
        "seconds": round(result.seconds, 3),
        "network_seconds": round(result.network_seconds, 3),
    }
    if result.trimap is not None:
        report["trimap"] = {"miou": result.trimap.miou(), "pixel_accuracy": result.trimap.pixel_accuracy()}
    return _nan_to_none(report)


def plot_trimap(result: EvaluationResult, path: Path) -> None:
    """Plot mIoU and pixel accuracy against the width of the band around boundaries, as the papers do.

    Without trimap counts nothing is plotted.

    Raises: `AtrousError` if matplotlib is not installed, or the file cannot be written.
    """
    if result.trimap is None:
        return
    figure = _figure(6, 4)
    axes = figure.subplots()
    widths = range(1, len(result.trimap.counts) + 1)
    axes.plot(widths, [100 * value for value in result.trimap.miou()], label="mIoU")
    axes.plot(widths, [100 * value for value in result.trimap.pixel_accuracy()], label="pixel accuracy")
    axes.set(xlabel="width of the band around boundaries (pixels)", ylabel="%", xlim=(1, len(result.trimap.counts)))
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def plot_confusion(result: EvaluationResult, classes: Sequence[str], path: Path) -> None:
    """Plot the confusion matrix, normalized by the pixels of each true class.

    Raises: `AtrousError` if matplotlib is not installed, or the file cannot be written.
    """
    counts = result.confusion.counts.astype(np.float64)
    normalized = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(40.0, 3 + 0.3 * len(classes))
    figure = _figure(side + 1, side)
    axes = figure.subplots()
    image = axes.imshow(100 * normalized, cmap="magma", vmin=0, vmax=100)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_xticks(range(len(classes)), classes, rotation=90)
    axes.set_yticks(range(len(classes)), classes)
    figure.colorbar(image, ax=axes, label="% of the true class", shrink=0.8)
    _save(figure, path)


def draw_worst_images(rows: Sequence[Comparison], classes: Sequence[str], colors: Sequence[Color], path: Path) -> None:
    """Save a sheet of images with their truth and prediction, one row each; without rows nothing is written.

    Raises: `AtrousError` if the file cannot be written.
    """
    if rows:
        save_image(comparison_sheet(rows, classes, colors), path, MARK)


def add_to_card(path: Path, result: EvaluationResult, data: str, command: str, target: Path | None = None) -> None:
    """Store the metrics, in percent, in the card of a safetensors file, with the data set and the command.

    Stored metrics of the same name, data set and command are replaced; others stay. With `target` the file is left as
    it is, and a copy with the card is written.

    Raises: `AtrousError` if the file has no card, or cannot be written.
    """
    card = read_card(path)
    new = [
        Measurement(name=name, value=round(100 * value, 2), data=data, command=command)
        for name, value in result.metrics().items()
        if not math.isnan(value)
    ]
    keys = {(measurement.name, measurement.data, measurement.command) for measurement in new}
    old = [entry for entry in card.measured if (entry.name, entry.data, entry.command) not in keys]
    write_card(path, card.model_copy(update={"measured": (*old, *new)}), target)


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AtrousError("Plots need matplotlib: pip install 'atrous[train]'.") from error
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    with writing(path) as temporary:
        figure.savefig(temporary, dpi=120, metadata={"Software": str(MARK)} if path.suffix == ".png" else None)


def _nan_to_none(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not allow, by None."""
    if isinstance(value, dict):
        return {key: _nan_to_none(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_nan_to_none(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
