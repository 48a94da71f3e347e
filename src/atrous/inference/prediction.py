"""The coarse class scores of an image, kept at the network's resolution and upsampled on request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from atrous.imaging.labels import label_dtype
from atrous.inference.taps import Taps
from atrous.inference.upsampled_argmax import (
    AnyScores,
    Scores,
    interpolate_rows,
    resize_taps,
    row_chunks,
    upsampled_argmax,
)

if TYPE_CHECKING:
    from torch import Tensor

Size: TypeAlias = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class CoarsePrediction:
    """The class scores of one image at the network's resolution: one map for each view (scale, mirror image).

    Every view is resized to `input_size`, the network's input at scale 1, and the views are averaged. The upper left
    `content_size` of the input holds the image, the rest is padding; this part is resized to `image_size`. If the image
    was not resized (`content_size` equals `image_size`: the card keeps or pads images), one interpolation suffices:
    labels are computed from the coarse scores, without the map of all scores at the size of the image.

    `merge` is the average over the views, as in `TTAConfig`: `"mean_logits"`, the mean of the resized scores;
    `"mean_softmax"`, the mean of their softmax; or `"mean_probabilities"` for views that are probabilities already.

    Views are tensors on one device or NumPy arrays; the labels of a single array are computed without importing torch.

    Shape: `views` (K, h, w) each.
    """

    views: tuple[Scores, ...]
    input_size: Size
    content_size: Size
    image_size: Size
    align_corners: bool
    merge: Literal["mean_logits", "mean_softmax", "mean_probabilities"] = "mean_logits"

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return self.views[0].shape[0]

    def tensors(self) -> tuple[Tensor, ...]:
        """Convert the views to tensors, which share the memory of arrays."""
        import torch

        return tuple(torch.from_numpy(view) if isinstance(view, np.ndarray) else view for view in self.views)

    def labels(self, out: NDArray[np.integer] | None = None) -> NDArray[np.integer]:
        """Compute the label of every pixel of the image: the arg-max of `probabilities()`, up to ties.

        Shape: -> (H, W) uint8, or uint16 above 256 classes; `out`, if given, is filled and returned.
        """
        if self.content_size != self.image_size:
            averaged = self._average_views(self._views())
            return upsampled_argmax(averaged, self.image_size, align_corners=self.align_corners, out=out)
        if len(self.views) == 1:
            return upsampled_argmax(
                self.views[0], self.input_size, align_corners=self.align_corners, crop=self.image_size, out=out
            )
        labels = np.empty(self.image_size, label_dtype(self.num_classes, 0)) if out is None else out
        for chunk, rows in self._averaged_rows(self.tensors()):
            labels[chunk] = rows.argmax(0).numpy(force=True)
        return labels

    def probabilities(self) -> Tensor:
        """Compute the softmax over classes at every pixel of the image.

        Shape: -> (K, H, W) float32, on the views' device.
        """
        averaged = self._resize_to_image()
        return averaged.float().softmax(0) if self.merge == "mean_logits" else averaged.float()

    def logits(self) -> Tensor:
        """Compute logits whose softmax is `probabilities()`: the scores, or logarithms of averaged probabilities.

        Shape: -> (K, H, W), on the views' device.
        """
        import torch

        averaged = self._resize_to_image()
        return averaged if self.merge == "mean_logits" else averaged.clamp_min(torch.finfo(averaged.dtype).tiny).log()

    def _views(self) -> tuple[Any, ...]:
        """The views as they are, if averaging them needs no torch, else as tensors."""
        return self.views if len(self.views) == 1 and self.merge != "mean_softmax" else self.tensors()

    def _resize_to_image(self) -> Tensor:
        averaged = self._average_views(self.tensors())
        if self.content_size == self.image_size:
            return averaged
        from atrous.layers.resize import resize

        return resize(averaged[None], self.image_size, align_corners=self.align_corners)[0]

    def _average_views(self, views: Sequence[AnyScores]) -> AnyScores:
        """Shape: -> (K, *content_size)."""
        size = (self.num_classes, *self.content_size)
        first: Any = views[0]
        averaged: Any = np.empty(size, first.dtype) if isinstance(first, np.ndarray) else first.new_empty(size)
        for chunk, rows in self._averaged_rows(views):
            averaged[:, chunk] = rows
        return averaged

    def _averaged_rows(self, views: Sequence[AnyScores]) -> Iterator[tuple[slice, AnyScores]]:
        """Compute the averaged map in chunks of rows, which bounds the memory for the resized views."""
        taps = [
            resize_taps(view, self.input_size, align_corners=self.align_corners, crop=self.content_size)
            for view in views
        ]
        height, width = self.content_size
        for chunk in row_chunks(views[0], height, 4 * self.num_classes * width * views[0].itemsize):
            total = self._resized_view(views[0], taps[0][0][chunk], taps[0][1])
            for view, (rows, columns) in zip(views[1:], taps[1:], strict=True):
                total += self._resized_view(view, rows[chunk], columns)
            total /= len(views)
            yield chunk, total

    def _resized_view(self, view: AnyScores, rows: Taps, columns: Taps) -> AnyScores:
        resized: Any = interpolate_rows(view, rows, columns)
        return resized.softmax(0) if self.merge == "mean_softmax" else resized
