"""MobileNetV2: Inverted Residuals and Linear Bottlenecks (Sandler, Howard, Zhu, Zhmoginov, Chen; CVPR 2018).

Parameter names are torchvision's (`features.0.0`, `features.1.conv.0.0`, ...). Arguments cover what released weights
differ in:

- `norm_eps`: the epsilon of batch normalization. TensorFlow's 1e-3, which the released DeepLab weights were trained
  with, or the 1e-5 of torchvision and the libraries that build on it.
- `divisor=1` turns off the rounding of channels to multiples of 8, as in the x0.5 DeepLab release. The expanded
  channels inside a block are multiples of 8 in any case.
- `maps_from`: the maps of all stages but the last are a block's "output", or its expanded channels after the
  depthwise convolution ("depthwise"), as TensorFlow DeepLab's decoder takes them.
- `padding`: "symmetric"; "tensorflow", which pads even sizes at the end; or "before_expansion", which pads the input of
  each inverted residual, so that its expansion makes the border other than zero, and does not pad the image, as in
  VainF's DeepLabV3Plus-Pytorch: its maps are a pixel smaller at odd sizes.
- `last_conv` keeps the classifier's 1x1 convolution to 1280 channels, and `stages` ends the network after its second or
  third map, as in segmentation_models_pytorch.
- `whole_stage` dilates the depthwise convolution that loses its stride as well, see `layers.dilate`; also there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from atrous.backbones.base import Backbone, register_backbone, torchvision_imagenet
from atrous.errors import AtrousError
from atrous.layers.conv import ConvNormAct, Norm, Padding, PrepaddedConv2d, init_convs, make_divisible
from atrous.layers.dilate import single_value
from atrous.layers.norm import BatchNorm2d
from atrous.registry import Paper

PAPER = Paper(
    "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
    "Sandler, Howard, Zhu, Zhmoginov, Chen",
    2018,
    "1801.04381",
)

BOTTLENECKS = (  # expansion t, channels c, repeats n, stride s: table 2 of the paper
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

TAPS = (3, 6, 13, 17)
"""The last blocks before strides 8, 16 and 32, and the last: their outputs are the maps."""

MapsFrom = Literal["output", "depthwise"]


def block_channels(width: float, divisor: int) -> list[int]:
    """List the output channels of the stem and of every block at a width multiplier."""
    bases = [32, *(base for _, base, repeats, _ in BOTTLENECKS for _ in range(repeats))]
    return [make_divisible(base * width, divisor) for base in bases]


def find_width(channels: Sequence[int]) -> tuple[float, int] | None:
    """Find the width multiplier and the divisor that give these channels (see `block_channels`), or None."""
    ratios = (channels[0] / 32, channels[-1] / BOTTLENECKS[-1][1])
    for width in dict.fromkeys(round(ratio, digits) for digits in (2, 3, 9) for ratio in ratios):
        for divisor in (8, 1):
            if list(channels) == block_channels(width, divisor):
                return width, divisor
    return None


class InvertedResidual(nn.Module):
    """Inverted residual (figure 3b): expand, filter depthwise, project linearly; the input is added if shapes agree.

    With `return_depthwise` it returns the result of the depthwise convolution as well as the output.

    Shape: (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        expansion: int,
        stride: int,
        padding: Padding = "symmetric",
        norm: Norm = BatchNorm2d,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.hidden_channels = hidden = make_divisible(in_channels * expansion) if expansion != 1 else in_channels
        expand = [ConvNormAct(in_channels, hidden, norm=norm, act=nn.ReLU6)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            ConvNormAct(hidden, hidden, 3, stride=stride, groups=hidden, norm=norm, act=nn.ReLU6, padding=padding),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            norm(out_channels),
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor, *, return_depthwise: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        depthwise = self.conv[-3].get_submodule("0")
        padded = x
        if isinstance(depthwise, PrepaddedConv2d):
            padded = F.pad(x, [single_value(depthwise, "padding")] * 4)
        if not return_depthwise:
            return x + self.conv(padded) if self.residual else self.conv(padded)
        filtered = self.conv[:-2](padded)
        output = self.conv[-2:](filtered)
        return filtered, (x + output if self.residual else output)


@register_backbone("mobilenet_v2", PAPER, pretrained={"imagenet": torchvision_imagenet("mobilenet_v2-b0353104.pth")})
class MobileNetV2(Backbone):
    """MobileNetV2 up to its 320 channels, with its classifier only if `num_classes` is given.

    `width` is the paper's multiplier; the module lists the other arguments.

    Shape: (N, in_channels, H, W) -> maps of 24, 32, 96 and 320 channels at strides 4, 8, 16, 32 (x width); with
    `maps_from="depthwise"` of 144, 192, 576 and 320.
    Raises: `AtrousError` for `stages` other than 2, 3 and 4, or a last convolution without all of them.
    """

    classifier_keys = ("features.18.", "classifier.")

    def __init__(
        self,
        *,
        width: float = 1.0,
        divisor: int = 8,
        padding: Padding = "symmetric",
        norm_eps: float = 1e-3,
        maps_from: MapsFrom = "output",
        stages: int = 4,
        last_conv: bool = False,
        whole_stage: bool = False,
        in_channels: int = 3,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        last_conv = last_conv or bool(num_classes)
        if stages not in (2, 3, 4) or (last_conv and stages != 4):
            raise AtrousError(f"stages {stages}: choose 2, 3 or 4, and 4 with the last convolution or a classifier.")
        self.maps_from = maps_from
        self.whole_stage = whole_stage
        norm = partial(BatchNorm2d, eps=norm_eps)
        channels, *following = block_channels(width, divisor)
        stem = ConvNormAct(in_channels, channels, 3, stride=2, norm=norm, act=nn.ReLU6, padding=padding)
        features: list[nn.Module] = [stem]
        for expansion, _, repeats, stride in BOTTLENECKS:
            for index in range(repeats):
                out = following.pop(0)
                step = stride if index == 0 else 1
                features.append(
                    InvertedResidual(channels, out, expansion=expansion, stride=step, padding=padding, norm=norm)
                )
                channels = out
        features = features[: TAPS[stages - 1] + 1]
        if last_conv:
            last = make_divisible(1280 * max(1.0, width), divisor)
            features.append(ConvNormAct(channels, last, norm=norm, act=nn.ReLU6))
        if num_classes:
            self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))
        self.features = nn.Sequential(*features)
        self.classifies = bool(num_classes)
        units = [unit for unit in features if isinstance(unit, InvertedResidual)]
        *finer, coarsest = (units[index - 1] for index in TAPS[:stages])
        finer_maps = (unit.hidden_channels if maps_from == "depthwise" else unit.out_channels for unit in finer)
        self.channels = (*finer_maps, last if last_conv and not num_classes else coarsest.out_channels)
        self.native_strides = (4, 8, 16, 32)[:stages]
        init_convs(self)

    def blocks(self) -> list[nn.Module]:
        blocks = list(self.features.children())
        return blocks[:18] if self.classifies else blocks

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        blocks = self.blocks()
        for index, block in enumerate(blocks):
            if index in TAPS[:-1] and index < len(blocks) - 1 and self.maps_from == "depthwise":
                filtered, x = block(x, return_depthwise=True)
                maps.append(filtered)
                continue
            x = block(x)
            if index in TAPS[:-1] or index == len(blocks) - 1:
                maps.append(x)
        return maps

    def _classify(self, features: Tensor) -> Tensor:
        return self.classifier(self.features[18](features).mean((2, 3)))


@register_backbone("mobilenet_v2_x0.5", PAPER)
def mobilenet_v2_half(
    *,
    width: float = 1.0,
    divisor: int = 1,
    padding: Padding = "symmetric",
    maps_from: MapsFrom = "output",
    in_channels: int = 3,
    num_classes: int | None = None,
) -> MobileNetV2:
    """Build MobileNetV2 with half the channels, unrounded, as in the DeepLab release."""
    return MobileNetV2(
        width=0.5 * width,
        divisor=divisor,
        padding=padding,
        maps_from=maps_from,
        in_channels=in_channels,
        num_classes=num_classes,
    )
