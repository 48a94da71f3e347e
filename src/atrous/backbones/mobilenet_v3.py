"""MobileNetV3: Searching for MobileNetV3 (Howard, Sandler, Chu, Chen, Chen, Tan, Wang, Zhu, Pang, Vasudevan, Le, Adam;
ICCV 2019), Large and Small.

Inverted residuals found by architecture search, some with squeeze-and-excite, and h-swish in the deeper half. Parameter
names are torchvision's (`features.0.0`, `features.4.block.2.fc1`, ...), so its state dicts load unchanged.

Squeeze-and-excite averages the whole map. With strides traded for dilations the map is denser, and its average another
one; so that the change is exact, the average is taken over the pixels that the strided network has. Two layouts:

- "exact": the above; the map of a stage is its last one.
- "torchvision": that of torchvision's dilated networks, for weights that were trained so. The first convolution of a
  dilated stage is dilated too, squeeze-and-excite averages all pixels, and the maps before the last are those of the
  first block of a stage, which has the stride.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from atrous.backbones.base import Backbone, register_backbone, torchvision_imagenet
from atrous.errors import AtrousError
from atrous.layers.conv import ConvNormAct, init_convs, make_divisible
from atrous.layers.dilate import block_stride
from atrous.layers.norm import BatchNorm2d
from atrous.registry import Paper

PAPER = Paper(
    title="Searching for MobileNetV3",
    authors="Howard, Sandler, Chu, Chen, Chen, Tan, Wang, Zhu, Pang, Vasudevan, Le, Adam",
    year=2019,
    arxiv="1905.02244",
)

Size = Literal["large", "small"]
Layout = Literal["exact", "torchvision"]

LARGE = (  # kernel, expanded channels, channels, squeeze-and-excite, h-swish, stride: table 1 of the paper
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)
SMALL = (  # table 2
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)
SIZES = {"large": (LARGE, 1280), "small": (SMALL, 1024)}
"""Blocks, and channels of the classifier's hidden layer."""

IMAGENET = {
    "large": torchvision_imagenet("mobilenet_v3_large-8738ca79.pth", reduced_tail=False),
    "small": torchvision_imagenet("mobilenet_v3_small-047dcff4.pth", reduced_tail=False),
}

_norm = partial(BatchNorm2d, eps=1e-3, momentum=0.01)


class SqueezeExcite(nn.Module):
    """Squeeze-and-excite: scale each channel by a factor between 0 and 1, computed from the averages of all channels.

    The average is over every `step`-th pixel of rows and columns.

    Shape: (N, channels, H, W) -> the same.
    Source: section 5.3 (a quarter of the channels in between, hard sigmoid).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = make_divisible(channels // 4)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.step = 1

    def forward(self, x: Tensor) -> Tensor:
        average = x[..., :: self.step, :: self.step].mean((2, 3), keepdim=True)
        return x * F.hardsigmoid(self.fc2(F.relu(self.fc1(average))))


class InvertedResidual(nn.Module):
    """Inverted residual with squeeze-and-excite (figure 4); the input is added if the shapes agree.

    Shape: (N, in_channels, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self, in_channels: int, kernel: int, hidden: int, channels: int, *, squeeze: bool, hardswish: bool, stride: int
    ) -> None:
        super().__init__()
        act = nn.Hardswish if hardswish else nn.ReLU
        expand = [ConvNormAct(in_channels, hidden, norm=_norm, act=act)] if hidden != in_channels else []
        self.block = nn.Sequential(
            *expand,
            ConvNormAct(hidden, hidden, kernel, stride=stride, groups=hidden, norm=_norm, act=act),
            *([SqueezeExcite(hidden)] if squeeze else []),
            ConvNormAct(hidden, channels, norm=_norm, act=None),
        )
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.residual else self.block(x)


@register_backbone("mobilenet_v3_large", PAPER, size="large", pretrained={"imagenet": IMAGENET["large"]})
@register_backbone("mobilenet_v3_small", PAPER, size="small", pretrained={"imagenet": IMAGENET["small"]})
class MobileNetV3(Backbone):
    """MobileNetV3 up to its last 1x1 convolution, with its classifier only if `num_classes` is given.

    `width` is the paper's multiplier. `reduced_tail` halves the channels of the last stage (table 7, "RF2").

    Shape: (N, in_channels, H, W) -> maps of 24, 40, 112 and 960 channels ("large"; 16, 24, 48 and 576 "small") at
    strides 4, 8, 16, 32 (x width).
    Raises: `AtrousError` for an unknown size.
    """

    native_strides = (4, 8, 16, 32)
    classifier_keys = ("classifier.",)

    def __init__(
        self,
        size: Size,
        *,
        width: float = 1.0,
        reduced_tail: bool = False,
        layout: Layout = "exact",
        in_channels: int = 3,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        if size not in SIZES:
            raise AtrousError(f"MobileNetV3 '{size}': the sizes are large and small.")
        self.layout = layout
        self.whole_stage = layout == "torchvision"
        configuration, hidden_units = SIZES[size]
        channels = make_divisible(16 * width)
        features: list[nn.Module] = [ConvNormAct(in_channels, channels, 3, stride=2, norm=_norm, act=nn.Hardswish)]
        stride, divisor, outputs = 2, 1, [channels]
        for kernel, expanded, base, squeeze, hardswish, step in configuration:
            stride *= step
            divisor = 2 if reduced_tail and stride == self.native_strides[-1] else 1
            hidden = make_divisible(expanded // (1 if step > 1 else divisor) * width)
            out = make_divisible(base // divisor * width)
            features.append(
                InvertedResidual(channels, kernel, hidden, out, squeeze=squeeze, hardswish=hardswish, stride=step)
            )
            channels = out
            outputs.append(channels)
        last = 6 * channels
        features.append(ConvNormAct(channels, last, norm=_norm, act=nn.Hardswish))
        self.features = nn.Sequential(*features)
        if num_classes:
            units = make_divisible(hidden_units // divisor * width)
            self.classifier = nn.Sequential(
                nn.Linear(last, units), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(units, num_classes)
            )
        self._taps = self._stage_ends()
        self.channels = (*(outputs[index] for index in self._taps), last)
        init_convs(self)

    def _stage_ends(self) -> list[int]:
        """List the blocks whose outputs are the maps before the last."""
        strided = [index for index, block in enumerate(self.features) if block_stride(block) > 1]
        return strided[1:-1] if self.layout == "torchvision" else [index - 1 for index in strided[2:]]

    def blocks(self) -> list[nn.Module]:
        return list(self.features)

    def set_output_stride(self, output_stride: int) -> None:
        super().set_output_stride(output_stride)
        stride = 1
        for block in self.features:
            stride *= block_stride(block)
            for layer in block.modules():
                if isinstance(layer, SqueezeExcite) and self.layout == "exact":
                    layer.step = max(1, stride // output_stride)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for index, block in enumerate(self.features):
            x = block(x)
            if index in self._taps:
                maps.append(x)
        return [*maps, x]

    def _classify(self, features: Tensor) -> Tensor:
        return self.classifier(features.mean((2, 3)))
