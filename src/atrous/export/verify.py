"""Compare an exported file with the network it was made from, on images of three sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atrous.card import Preprocessing
from atrous.errors import AtrousError
from atrous.export.labels import LabelModule
from atrous.imaging.io import Pixels, resize_image
from atrous.inference.preprocess import normalize

TOLERANCE = 1e-3
"""The largest difference of a file that is kept, relative to the largest score."""

SIZES = ((193, 257), (320, 224), (129, 385))
"""Heights and widths that are compared, unless the file has a fixed one."""


@dataclass(frozen=True)
class Difference:
    """The difference between a file and its network on images of one size."""

    size: tuple[int, int]
    largest: float
    """Relative to the largest score; for labels, the difference of the scores of the two labels where they differ."""


def sample_images(images: Sequence[Pixels], size: tuple[int, int] | None) -> list[Pixels]:
    """Make images of three sizes, or three of a fixed size, from photographs or, without any, from random numbers.

    Shape: -> three times (H, W, 3) uint8.
    """
    sizes = [size] * 3 if size is not None else list(SIZES)
    if images:
        return [resize_image(images[n % len(images)], *each) for n, each in enumerate(sizes)]
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*each, 3), np.uint8) for each in sizes]


def verify(
    run: Callable[[NDArray[np.generic]], NDArray[np.generic]],
    module: nn.Module,
    images: Sequence[Pixels],
    preprocessing: Preprocessing,
) -> list[Difference]:
    """Compare the outputs of a file, computed by `run`, with those of the module it was made from.

    Raises: `AtrousError` for a difference above `TOLERANCE`, or outputs of another shape.
    """
    differences = []
    for pixels in images:
        size = (pixels.shape[0], pixels.shape[1])
        if isinstance(module, LabelModule):
            batch: NDArray[np.generic] = np.stack([pixels, pixels[::-1]])
            largest = _label_difference(_run(run, batch), module, torch.from_numpy(batch))
        else:
            inputs = [normalize(each, preprocessing, size) for each in (pixels, pixels[::-1])]
            batch = np.stack([np.asarray(each) for each in inputs])
            largest = _score_difference(_run(run, batch), module, torch.from_numpy(batch))
        if not largest <= TOLERANCE:
            raise AtrousError(
                f"The exported network differs from the original by {largest:.2g} of the largest score at {size[1]} x "
                f"{size[0]} pixels; at most {TOLERANCE:g} is accepted, so no file was written. Use another format."
            )
        differences.append(Difference(size, largest))
    return differences


def _run(run: Callable[[NDArray[np.generic]], NDArray[np.generic]], batch: NDArray[np.generic]) -> NDArray[np.generic]:
    try:
        return run(batch)
    except (RuntimeError, AssertionError) as error:  # a runtime's own, or a guard of torch.export
        reason = str(error).strip().splitlines()[0]
        raise AtrousError(
            f"The exported network does not run on a batch of shape {batch.shape} ({reason}), so no file was written. "
            "Fix the size of its input with --size, or use another format."
        ) from error


@torch.inference_mode()
def _score_difference(output: NDArray[np.generic], module: nn.Module, batch: Tensor) -> float:
    expected = module(batch).numpy()
    _check_shape(output, expected.shape)
    return float(np.abs(output - expected).max() / max(np.abs(expected).max(), 1e-30))


@torch.inference_mode()
def _label_difference(output: NDArray[np.generic], module: LabelModule, batch: Tensor) -> float:
    """By how much the score of the file's label falls short of the best score, at most."""
    scores = module.scores(batch)
    _check_shape(output, (scores.shape[0], *scores.shape[2:]))
    chosen = scores.gather(1, torch.from_numpy(output.astype(np.int64))[:, None])[:, 0]
    return float((scores.amax(1) - chosen).max() / scores.abs().max().clamp_min(1e-30))


def _check_shape(output: NDArray[np.generic], expected: tuple[int, ...]) -> None:
    if output.shape != expected:
        raise AtrousError(
            f"The exported network gives an output of shape {output.shape} instead of {expected}, so no file was "
            "written. Use another format."
        )
