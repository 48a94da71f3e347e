"""U-Net: Convolutional Networks for Biomedical Image Segmentation (Ronneberger, Fischer, Brox; MICCAI 2015).

A contracting path of five levels and an expansive path that mirrors it. Each level of the expansive path takes the
upsampled features of the level below, concatenated with the features of the same level in the contracting path.

`unet.valid` is the paper's network: convolutions without padding, so that the score map is 184 pixels smaller than the
input, skip connections cropped to fit, no batch normalization. The image is extended by reflection to make up for the
pixels that the convolutions remove, as in the paper (overlap-tile), and to a size that is even before every pooling.
With `pad_in_training=False` and the transform `margin_crop` (recipe `unet_folder`) it is trained as in the paper, on
tiles of 572 pixels with 388 labels, reflected only at the borders of the image. By default `training_outputs` has the
size of the image, like that of all other networks.
`unet.padded` is the network usually called U-Net today: convolutions that keep the size, and batch normalization.
`create_model("unet", backbone=NAME)` has a classifier as its contracting path (`UNetOnBackbone`), as elsewhere:
its maps are resized instead of upsampled by transposed convolutions, so that it runs at every output stride.

The weight map of touching cells (equation 2) and the elastic deformation of section 3.1 are part of training:
`data.instances.border_weights` and `data.transforms.RandomElastic`, in the recipe `unet_folder`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atrous.backbones import Backbone
from atrous.errors import AtrousError
from atrous.layers.conv import ConvNormAct, init_classifier, init_convs
from atrous.layers.norm import BatchNorm2d
from atrous.layers.pad import crop, crop_center, mirror_pad
from atrous.models.base import SegmentationModel, build_backbone, register_model, register_on_any_backbone, scaled
from atrous.registry import Paper

PAPER = Paper(
    title="U-Net: Convolutional Networks for Biomedical Image Segmentation",
    authors="Ronneberger, Fischer, Brox",
    year=2015,
    arxiv="1505.04597",
)


def _double_conv(
    in_channels: int, channels: int, *, padded: bool, batch_norm: bool, bias: bool | None
) -> nn.Sequential:
    """Build two 3x3 convolutions, each with ReLU: without padding, or padded to keep the size."""
    norm = BatchNorm2d if batch_norm else None
    layers = [ConvNormAct(n, channels, 3, norm=norm, bias=bias) for n in (in_channels, channels)]
    if not padded:
        for layer in layers:
            layer.get_submodule("0").padding = (0, 0)  # type: ignore[assignment]
    return nn.Sequential(*layers)


def _up_conv(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    """Build an up-convolution, initialized by He's method: a single tap of its kernel reaches each output pixel."""
    conv = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
    nn.init.normal_(conv.weight, std=(2 / in_channels) ** 0.5)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


@register_model("unet.valid", PAPER, padded=False, batch_norm=False)
@register_model("unet.padded", PAPER, padded=True, batch_norm=True)
class UNet(SegmentationModel):
    """U-Net: two 3x3 convolutions per level in the contracting and in the expansive path.

    `channels` has one number per level, the bottom level last. With `conv_bias=None` convolutions have a bias only
    without batch normalization. Dropout follows the two deepest levels of the contracting path. With
    `pad_in_training=False`, `training_outputs` takes images that contain the margin of 92 pixels on each side, and
    returns the scores of the rest.

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W); `scores` extend beyond the image at the bottom and on the
    right, to 16 b - 60 pixels in the valid network and to 16 b in the padded one; `training_outputs` without padding
    have H - 184 rows.
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
        pad_in_training: bool = True,
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise AtrousError(f"channels {tuple(channels)}: U-Net needs 2 levels or more.")
        self.num_classes = num_classes
        self.padded = padded
        self.pad_in_training = pad_in_training
        levels = [scaled(n, width) for n in channels]
        self.depth = len(levels) - 1
        convs = partial(_double_conv, padded=padded, batch_norm=batch_norm, bias=conv_bias)
        self.contract = nn.ModuleList(convs(n, out) for n, out in pairwise([in_channels, *levels]))
        self.up = nn.ModuleList(_up_conv(n, out) for n, out in pairwise(reversed(levels)))
        self.expand = nn.ModuleList(convs(2 * out, out) for out in reversed(levels[:-1]))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(levels[0], num_classes, 1)
        init_convs(self, mode="fan_in")
        init_classifier(self.classifier)

    @property
    def output_stride(self) -> int:
        return 2**self.depth

    def possible_output_strides(self) -> list[int]:
        return [self.output_stride]

    def head(self) -> list[nn.Module]:
        return []  # nothing is pretrained: all parameters have the same learning rate

    def input_size(self, size: int) -> int:
        """Compute the side of the input that gives scores for `size` pixels: 572 for 388, 16 b + 124 for 16 b - 60.

        Valid convolutions remove 4 pixels per level, at the resolution of the level. Padded ones remove none and need a
        side of 16 b, which is even before every pooling.
        """
        stride, lost = self.output_stride, 0 if self.padded else 4 * (self.output_stride - 1)
        bottom = (size + lost + stride - 1) // stride  # rounded up; ONNX rounds negative quotients toward zero
        return stride * bottom + 2 * self.margin() - lost

    def margin(self) -> int:
        """Compute the padding at the top and on the left, in pixels: half of 184 for valid convolutions, else 0."""
        return 0 if self.padded else 4 * (self.output_stride - 1) + 2 * self.output_stride

    def scores(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        margin = self.margin()
        bottom, right = (self.input_size(side) - side - margin for side in (height, width))
        return self._scores_inside_margin(mirror_pad(image, (margin, margin), (bottom, right)))

    def training_outputs(self, image: Tensor) -> list[tuple[Tensor, float]]:
        """Compute the outputs of the training loss; those of the valid network without padding have H - 184 rows.

        Raises: `AtrousError` for an image without padding whose sides no scores fit exactly.
        """
        if self.pad_in_training:
            return super().training_outputs(image)
        margin = self.margin()
        height, width = image.shape[-2:]
        if any(side <= 2 * margin or self.input_size(side - 2 * margin) != side for side in (height, width)):
            stride, least = self.output_stride, self.input_size(1)
            raise AtrousError(
                f"A training image of {width} x {height} pixels does not pool evenly: use the transform margin_crop "
                f"with margin {margin} and sides of {least} + {stride} k pixels, or pad_in_training=true."
            )
        return [(self._scores_inside_margin(image), 1.0)]

    def _scores_inside_margin(self, x: Tensor) -> Tensor:
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


class UNetOnBackbone(SegmentationModel):
    """U-Net whose contracting path is a backbone: resize, concatenate with the next finer map, two 3x3 convolutions.

    `channels` has one number per map but the coarsest, from coarse to fine.

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W); `scores` have the stride of the finest map.
    Raises: `AtrousError` for another number of `channels`, or an output stride the backbone does not support.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int = 21,
        output_stride: int = 32,
        channels: Sequence[int] = (256, 128, 64, 32),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        *skips, coarsest = backbone.channels
        if len(channels) < len(skips):
            raise AtrousError(f"channels {tuple(channels)}: this backbone needs {len(skips)} numbers, coarse to fine.")
        self.num_classes = num_classes
        self.backbone = backbone
        outputs = channels[: len(skips)]
        inputs = [above + skip for above, skip in zip((coarsest, *outputs), reversed(skips), strict=False)]
        convs = partial(_double_conv, padded=True, batch_norm=True, bias=None)
        self.expand = nn.ModuleList(convs(n, out) for n, out in zip(inputs, outputs, strict=True))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(outputs[-1], num_classes, 1)
        init_convs(self.expand)
        init_classifier(self.classifier)
        self.set_output_stride(output_stride)

    def scores(self, image: Tensor) -> Tensor:
        *skips, x = self.backbone(image)
        for convs in self.expand:
            skip = skips.pop()
            x = convs(torch.cat([self._to_size_of(skip, x), skip], 1))
        return self.classifier(self.dropout(x))


@register_on_any_backbone("unet", PAPER, options_of=UNetOnBackbone)
def unet_on_backbone(
    backbone: str,
    *,
    width: float = 1.0,
    in_channels: int = 3,
    backbone_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> UNetOnBackbone:
    """Build U-Net on a backbone, on its map at stride 2 too if it is one of timm's; `width` multiplies all channels."""
    finest = {"finest_stride": 2} if backbone.startswith("timm:") else {}
    built = build_backbone(
        backbone, width=width, in_channels=in_channels, backbone_options={**finest, **(backbone_options or {})}
    )
    widths = {"channels": tuple(scaled(n, width) for n in (256, 128, 64, 32))}
    return UNetOnBackbone(built, **{**widths, **options})
