"""Small networks with every kind of layer that runtimes stumble over."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from atrous.layers.aspp import ImagePooling
from atrous.layers.pad import crop_center, mirror_pad
from atrous.models import SegmentationModel
from atrous.models.pspnet import PyramidPooling
from atrous.models.segnet import max_pool, max_unpool
from tests.inference.networks import SmallNetwork, letter_card


class SizeDependentNetwork(SegmentationModel):
    """Mirrored borders, unpooling by indices, pooling over grids and over windows, image-level features."""

    num_classes = 5
    output_stride = 1

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 4, 1)
        self.grids = PyramidPooling(4, bins=(1, 2, 3, 6))
        self.image_level = ImagePooling(self.grids.out_channels, 4)
        self.windows = ImagePooling(4, 4, align_corners=True)
        self.windows.window = (60, 70)  # larger than some maps, smaller than others
        self.classifier = nn.Conv2d(4, 5, 1)

    def possible_output_strides(self) -> list[int]:
        return [1]

    def scores(self, image: Tensor) -> Tensor:
        size = image.shape[2:]
        x = self.stem(mirror_pad(image, (7, 5), (9, 150)))
        pooled, indices = max_pool(x)
        x = max_unpool(pooled, indices, (x.shape[2], x.shape[3]))
        grids = self.grids(x)
        x = self.windows(x) + grids[:, :4] + self.image_level(grids)
        return self.classifier(crop_center(x, [size[0] // 4, size[1] // 4]))


def small_network(**preprocessing) -> SmallNetwork:
    """A network of stride 4 with a card."""
    torch.manual_seed(1)
    network = SmallNetwork(align_corners="grid" in preprocessing)
    network.card = letter_card(network.align_corners, **preprocessing)
    return network.eval()


def size_dependent_network() -> SizeDependentNetwork:
    network = SizeDependentNetwork()
    network.card = letter_card(align_corners=False)
    return network.eval()
