"""What was measured, for machines and for eyes: JSON, the trimap curve, the confusion matrix, the worst images."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atrous.errors import AtrousError
from atrous.evaluation.evaluate import Evaluation
from atrous.files import writing
from atrous.imaging.io import Pixels, resize_image, save_image
from atrous.imaging.labels import Color, Labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFINITIONS = {
    "mIoU": "mean over classes of one confusion matrix; a class in neither truth nor prediction is left out, a class "
    "only predicted counts 0",
    "boundary IoU": "IoU of the pixels within 2 % of the diagonal of their class's outline",
    "boundary F": "of outlines within 0.75 % of the diagonal of each other, counts summed over images",
    "trimap": "mIoU and pixel accuracy of the pixels at most so many pixels from a boundary or void",
}

ROW_HEIGHT = 240
"""Of the pictures of the worst images."""


def as_json(found: Evaluation, classes: Sequence[str], **about: Any) -> dict[str, Any]:
    """All figures in one dictionary that JSON can hold; what is undefined is None. `about` comes first."""
    table = found.confusion.table(classes)
    if found.boundary is not None:
        for name, iou, f in zip(classes, found.boundary.iou, found.boundary.f, strict=True):
            table[name] |= {"boundary_iou": float(iou), "boundary_f": float(f)}
    result = {
        **about,
        "images": len(found.scores),
        "figures": found.figures(),
        "classes": table,
        "definitions": DEFINITIONS,
        "confusion": found.confusion.counts.tolist(),
        "seconds": round(found.seconds, 3),
        "network_seconds": round(found.network_seconds, 3),
    }
    if found.trimap is not None:
        result["trimap"] = {"miou": found.trimap.miou(), "pixel_accuracy": found.trimap.pixel_accuracy()}
    return _defined(result)


def write_json(result: dict[str, Any], path: Path) -> None:
    """Raises: `AtrousError` for a place that cannot be written."""
    with writing(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")


def plot_trimap(found: Evaluation, path: Path) -> None:
    """mIoU and pixel accuracy against the width of the band, as in the papers' figures.

    Raises: `AtrousError` where matplotlib is not installed, or the place cannot be written.
    """
    if found.trimap is None:
        return
    figure = _figure(6, 4)
    axes = figure.subplots()
    widths = range(1, len(found.trimap.counts) + 1)
    axes.plot(widths, [100 * value for value in found.trimap.miou()], label="mIoU")
    axes.plot(widths, [100 * value for value in found.trimap.pixel_accuracy()], label="pixel accuracy")
    axes.set(xlabel="width of the band around boundaries (pixels)", ylabel="%", xlim=(1, len(found.trimap.counts)))
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def plot_confusion(found: Evaluation, classes: Sequence[str], path: Path) -> None:
    """Of each class's pixels, the shares that were taken for each class.

    Raises: `AtrousError` where matplotlib is not installed, or the place cannot be written.
    """
    counts = found.confusion.counts.astype(np.float64)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(40.0, 3 + 0.3 * len(classes))
    figure = _figure(side + 1, side)
    axes = figure.subplots()
    image = axes.imshow(100 * shares, cmap="magma", vmin=0, vmax=100)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_xticks(range(len(classes)), classes, rotation=90)
    axes.set_yticks(range(len(classes)), classes)
    figure.colorbar(image, ax=axes, label="% of the true class", shrink=0.8)
    _save(figure, path)


def draw_worst(
    rows: Iterable[tuple[Pixels, Labels, Labels]], colors: Sequence[Color], ignore_index: int, path: Path
) -> None:
    """Image, truth and prediction side by side, one row each; ignored pixels are white.

    Raises: `AtrousError` for a place that cannot be written.
    """
    palette = np.full((max(ignore_index, len(colors)) + 1, 3), 255, np.uint8)
    palette[: len(colors)] = colors
    strips = []
    for image, truth, prediction in rows:
        width = max(1, round(image.shape[1] * ROW_HEIGHT / image.shape[0]))
        parts = [image, palette[truth], palette[prediction]]
        strips.append(np.hstack([resize_image(part, ROW_HEIGHT, width) for part in parts]))
    if not strips:
        return
    widest = max(strip.shape[1] for strip in strips)
    sheet = [np.pad(strip, ((0, 4), (0, widest - strip.shape[1]), (0, 0)), constant_values=255) for strip in strips]
    save_image(np.vstack(sheet), path)


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AtrousError("Plots need matplotlib: pip install 'atrous[train]'.") from error
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    with writing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _defined(value: Any) -> Any:
    """With None for what is not a number, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _defined(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_defined(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
