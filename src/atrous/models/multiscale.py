"""One network at several scales of the image, as DeepLab v2 trains and runs it."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from atrous.layers.pad import fill_to_grid
from atrous.layers.resize import resize
from atrous.models.base import SegmentationModel


class MultiScale(SegmentationModel):
    """A mixin: the same weights on the image at 1, 3/4 and 1/2 of its size; of the scores, the largest counts.

    In training, each scale answers for itself as well, at the same weight: four losses for three scales. It adds no
    parameter, so a network trained at one scale loads.

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W); `scores` are those of the full scale in size.
    Source: DeepLab v2 section 4.1.2 (multi-scale inputs, max fusion); "MSC" in tables 4 to 6.
    """

    def scores(self, image: Tensor) -> Tensor:
        return reduce(torch.maximum, self._at_scales(image))

    def training_outputs(self, image: Tensor) -> list[tuple[Tensor, float]]:
        maps = self._at_scales(image)
        return [(self._to_size_of(image, scores), 1.0) for scores in (reduce(torch.maximum, maps), *maps)]

    def _at_scales(self, image: Tensor) -> list[Tensor]:
        """Scores at each scale, all of the size they have at the full one."""
        image = fill_to_grid(image, 4 * self.output_stride)  # quarters of it are multiples of the stride again
        maps = [super().scores(image)]  # type: ignore[safe-super]
        rows, columns = maps[0].shape[2:]
        for quarters in (3, 2):
            height, width = ((n - 1) * quarters // 4 + 1 for n in image.shape[2:])
            scores = super().scores(resize(image, (height, width), align_corners=True))  # type: ignore[safe-super]
            maps.append(resize(scores, (rows, columns), align_corners=True))
        return maps
