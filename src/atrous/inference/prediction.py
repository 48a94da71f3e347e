"""What a network says of an image, kept as coarse as it was said, and resized when and where it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atrous.imaging.labels import label_dtype
from atrous.inference.upsampled_argmax import Taps, bands, resize_taps, resized_rows, upsampled_argmax
from atrous.layers.resize import resize

Size: TypeAlias = tuple[int, int]
Kind: TypeAlias = Literal["scores", "softmax", "probabilities"]


@dataclass(frozen=True)
class CoarsePrediction:
    """The views of one image, each the class scores of one look at it, at any resolution.

    A view is resized to the `frame`, the network's input at its own scale; the upper left `content` of the frame holds
    the image, the rest is padding; the content is resized to `size`, the image's own. Where the two are equal, which is
    wherever the card keeps or pads images, there is one resize and none of it need exist as a whole.

    `kind` says what is averaged: the resized `"scores"`; the `"softmax"` of each view's resized scores; or
    `"probabilities"`, which the views are already.

    Shape: `views` (K, h, w) each, on one device.
    """

    views: tuple[Tensor, ...]
    frame: Size
    content: Size
    size: Size
    align_corners: bool
    kind: Kind = "scores"

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.views[0].shape[0]

    def labels(self, out: NDArray[np.integer] | None = None) -> NDArray[np.integer]:
        """The best class of every pixel of the image: the arg-max of `probabilities()`, up to ties.

        Shape: -> (H, W) uint8, or uint16 above 256 classes; `out`, if given, is filled and returned.
        """
        if self.content == self.size and len(self.views) == 1:
            return upsampled_argmax(
                self.views[0], self.frame, align_corners=self.align_corners, crop=self.size, out=out
            )
        if self.content != self.size:
            return upsampled_argmax(self._merged(), self.size, align_corners=self.align_corners, out=out)
        found = np.empty(self.size, label_dtype(self.classes, 0)) if out is None else out
        for band, rows in self._merged_bands():
            found[band] = rows.argmax(0).numpy(force=True)
        return found

    def probabilities(self) -> Tensor:
        """The soft-max over classes at every pixel of the image.

        Shape: -> (K, H, W) float32, on the views' device.
        """
        merged = self._resized_to_image()
        return merged.float().softmax(0) if self.kind == "scores" else merged.float()

    def logits(self) -> Tensor:
        """Scores whose soft-max is `probabilities()`: the network's own, or logarithms where views were averaged.

        Shape: -> (K, H, W), on the views' device.
        """
        merged = self._resized_to_image()
        return merged if self.kind == "scores" else merged.clamp_min(torch.finfo(merged.dtype).tiny).log()

    def _resized_to_image(self) -> Tensor:
        merged = self._merged()
        if self.content == self.size:
            return merged
        return resize(merged[None], self.size, align_corners=self.align_corners)[0]

    def _merged(self) -> Tensor:
        """The views as one map of the content's size."""
        merged = self.views[0].new_empty(self.classes, *self.content)
        for band, rows in self._merged_bands():
            merged[:, band] = rows
        return merged

    def _merged_bands(self) -> Iterator[tuple[slice, Tensor]]:
        taps = [
            resize_taps(view, self.frame, align_corners=self.align_corners, crop=self.content) for view in self.views
        ]
        for band in bands(self.content[0], 4 * self.classes * self.content[1] * self.views[0].element_size()):
            merged = self._look(self.views[0], taps[0][0][band], taps[0][1])
            for view, (rows, columns) in zip(self.views[1:], taps[1:], strict=True):
                merged += self._look(view, rows[band], columns)
            yield band, merged.div_(len(self.views))

    def _look(self, view: Tensor, rows: Taps, columns: Taps) -> Tensor:
        resized = resized_rows(view, rows, columns)
        return resized.softmax(0) if self.kind == "softmax" else resized
