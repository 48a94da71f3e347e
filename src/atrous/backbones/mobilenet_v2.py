"""MobileNetV2: Inverted Residuals and Linear Bottlenecks (Sandler, Howard, Zhu, Zhmoginov, Chen; CVPR 2018).

Parameter names are torchvision's (`features.0.0`, `features.1.conv.0.0`, ...). Arguments cover what released weights
differ in:

- `norm_eps`: the epsilon of batch normalization. TensorFlow's 1e-3, which the released DeepLab weights were trained
  with, or the 1e-5 of torchvision and the libraries that build on it.
- `divisor=1` turns off the rounding of channels to multiples of 8, as in the x0.5 DeepLab release.
- `padding`: "symmetric"; "tensorflow", which pads even sizes at the end; or "before_expansion", which pads the input of
  each inverted residual, so that its expansion makes the border other than zero, and does not pad the image, as in
  VainF's DeepLabV3Plus-Pytorch: its maps are a pixel smaller at odd sizes.
- `last_conv` keeps the classifier's 1x1 convolution to 1280 channels, and `stages` ends the network after its second or
  third map, as in segmentation_models_pytorch.
- `whole_stage` dilates the depthwise convolution that loses its stride as well, see `layers.dilate`; also there.
"""

from __future__ import annotations

from functools import partial

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


class InvertedResidual(nn.Module):
    """Inverted residual (figure 3b): expand, filter depthwise, project linearly; the input is added if shapes agree.

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
        hidden = in_channels * expansion
        expand = [ConvNormAct(in_channels, hidden, norm=norm, act=nn.ReLU6)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            ConvNormAct(hidden, hidden, 3, stride=stride, groups=hidden, norm=norm, act=nn.ReLU6, padding=padding),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            norm(out_channels),
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        depthwise = self.conv[-3].get_submodule("0")
        padded = x
        if isinstance(depthwise, PrepaddedConv2d):
            padded = F.pad(x, [single_value(depthwise, "padding")] * 4)
        return x + self.conv(padded) if self.residual else self.conv(padded)


@register_backbone("mobilenet_v2", PAPER, pretrained={"imagenet": torchvision_imagenet("mobilenet_v2-b0353104.pth")})
class MobileNetV2(Backbone):
    """MobileNetV2 up to its 320 channels, with its classifier only if `num_classes` is given.

    `width` is the paper's multiplier; the module lists the other arguments.

    Shape: (N, in_channels, H, W) -> maps of 24, 32, 96 and 320 channels at strides 4, 8, 16, 32 (x width).
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
        self.whole_stage = whole_stage
        norm = partial(BatchNorm2d, eps=norm_eps)
        channels = make_divisible(32 * width, divisor)
        stem = ConvNormAct(in_channels, channels, 3, stride=2, norm=norm, act=nn.ReLU6, padding=padding)
        features: list[nn.Module] = [stem]
        for expansion, base, repeats, stride in BOTTLENECKS:
            for index in range(repeats):
                out = make_divisible(base * width, divisor)
                step = stride if index == 0 else 1
                features.append(
                    InvertedResidual(channels, out, expansion=expansion, stride=step, padding=padding, norm=norm)
                )
                channels = out
        maps = [make_divisible(base * width, divisor) for base in (24, 32, 96, 320)][:stages]
        features = features[: TAPS[stages - 1] + 1]
        if last_conv:
            last = make_divisible(1280 * max(1.0, width), divisor)
            features.append(ConvNormAct(channels, last, norm=norm, act=nn.ReLU6))
        if num_classes:
            self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))
        self.features = nn.Sequential(*features)
        self.classifies = bool(num_classes)
        self.channels = (*maps[:-1], last if last_conv and not num_classes else maps[-1])
        self.native_strides = (4, 8, 16, 32)[:stages]
        init_convs(self)

    def blocks(self) -> list[nn.Module]:
        blocks = list(self.features.children())
        return blocks[:18] if self.classifies else blocks

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        blocks = self.blocks()
        for index, block in enumerate(blocks):
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
    in_channels: int = 3,
    num_classes: int | None = None,
) -> MobileNetV2:
    """Build MobileNetV2 with half the channels, unrounded, as in the DeepLab release."""
    return MobileNetV2(
        width=0.5 * width, divisor=divisor, padding=padding, in_channels=in_channels, num_classes=num_classes
    )
