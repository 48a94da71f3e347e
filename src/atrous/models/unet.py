"""U-Net: Convolutional Networks for Biomedical Image Segmentation (Ronneberger, Fischer, Brox; MICCAI 2015).

A contracting path of five levels and an expansive one that mirrors it; each level of the second sees, beside what
comes up from below, the features of its counterpart.

`unet.valid` is the paper's: convolutions without padding, so that the map of scores is smaller than the image by 184
pixels, skips cropped to fit, no batch normalization. The image is continued by its mirror image for what the
convolutions use up, as the paper does at its borders (overlap-tile), and to a size whose poolings are all even.
`unet.padded` is the network everyone means today: convolutions that keep the size, and batch normalization.

What differs: the paper's loss weights the pixels between touching cells, and it trains on elastic deformations; both
belong to training, and are not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atrous.errors import AtrousError
from atrous.layers.conv import ConvNormAct, init_convs
from atrous.layers.norm import BatchNorm2d
from atrous.layers.pad import crop, crop_center, mirror_pad
from atrous.models.base import SegmentationModel, register_model, scaled
from atrous.registry import Paper

PAPER = Paper(
    title="U-Net: Convolutional Networks for Biomedical Image Segmentation",
    authors="Ronneberger, Fischer, Brox",
    year=2015,
    arxiv="1505.04597",
)


@register_model("unet.valid", PAPER, padded=False, batch_norm=False)
@register_model("unet.padded", PAPER, padded=True, batch_norm=True)
class UNet(SegmentationModel):
    """Two 3x3 convolutions at each of the levels, down and up again.

    `channels` are those of the levels, the last one the bottom. With `conv_bias=None` convolutions have a bias where
    they have no batch normalization. Dropout follows the two deepest levels of the contracting path.

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W); `scores` reach beyond the image at the bottom and on the
    right, to 16 b - 60 pixels in the valid network, to 16 b in the padded one.
    Source: figure 1; dropout: section 3.1 and the released prototxt.
    Raises: `AtrousError` for fewer than two levels.
    """

    def __init__(
        self,
        *,
        num_classes: int = 21,
        in_channels: int = 3,
        channels: Sequence[int] = (64, 128, 256, 512, 1024),
        width: float = 1.0,
        padded: bool = True,
        batch_norm: bool = True,
        conv_bias: bool | None = None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise AtrousError(f"channels {tuple(channels)}: U-Net has 2 levels or more.")
        self.num_classes = num_classes
        self.padded = padded
        levels = [scaled(n, width) for n in channels]
        self.depth = len(levels) - 1
        convs = partial(_convs, padded=padded, batch_norm=batch_norm, bias=conv_bias)
        self.contract = nn.ModuleList(convs(n, out) for n, out in pairwise([in_channels, *levels]))
        self.up = nn.ModuleList(nn.ConvTranspose2d(n, out, 2, stride=2) for n, out in pairwise(reversed(levels)))
        self.expand = nn.ModuleList(convs(2 * out, out) for out in reversed(levels[:-1]))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(levels[0], num_classes, 1)
        init_convs(self, mode="fan_in")

    @property
    def output_stride(self) -> int:
        return 2**self.depth

    def possible_output_strides(self) -> list[int]:
        return [self.output_stride]

    def head(self) -> list[nn.Module]:
        return []  # nothing is pre-trained, all of it learns at one rate

    def tile(self, size: int) -> int:
        """The side of the image that yields scores for `size` pixels: 572 for 388, 16 b + 124 for 16 b - 60.

        Valid convolutions take 4 pixels off at each level, before they are halved and after they are doubled. Padded
        ones take none, and poolings are even on any 16 b.
        """
        stride, lost = self.output_stride, 0 if self.padded else 4 * (self.output_stride - 1)
        bottom = -(-(size + lost) // stride)
        return stride * bottom + 2 * self.margin() - lost

    def margin(self) -> int:
        """By how much scores begin later than the image: half of 184 for valid convolutions."""
        return 0 if self.padded else 4 * (self.output_stride - 1) + 2 * self.output_stride

    def scores(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        margin, tiles = self.margin(), (self.tile(height), self.tile(width))
        x = mirror_pad(image, (margin, margin), (tiles[0] - height - margin, tiles[1] - width - margin))
        skips: list[Tensor] = []
        for level, convs in enumerate(self.contract):
            x = convs(F.max_pool2d(x, 2) if level else x)
            x = self.dropout(x) if level >= self.depth - 1 else x
            skips.append(x)
        skips.pop()
        for up, convs in zip(self.up, self.expand, strict=True):
            x = up(x)
            x = convs(torch.cat([crop_center(skips.pop(), x.shape[2:]), x], 1))
        return self.classifier(x)

    def forward(self, image: Tensor) -> Tensor:
        return crop(self.scores(image), image.shape[2:], top=0, left=0)


def _convs(in_channels: int, channels: int, *, padded: bool, batch_norm: bool, bias: bool | None) -> nn.Sequential:
    norm = BatchNorm2d if batch_norm else None
    layers = [ConvNormAct(n, channels, 3, norm=norm, bias=bias) for n in (in_channels, channels)]
    if not padded:
        for layer in layers:
            layer.get_submodule("0").padding = (0, 0)  # type: ignore[assignment]
    return nn.Sequential(*layers)
