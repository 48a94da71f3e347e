"""MobileNetV2: Inverted Residuals and Linear Bottlenecks (Sandler, Howard, Zhu, Zhmoginov, Chen; CVPR 2018).

Parameter names are torchvision's (`features.0.0`, `features.1.conv.0.0`, ...). The batch normalization has TensorFlow's
epsilon of 1e-3, which the released DeepLab weights were trained with. `divisor=1` turns off the rounding of channels
to multiples of 8, as in the x0.5 DeepLab release.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from atrous.backbones.base import Backbone, register_backbone, torchvision_imagenet
from atrous.layers.conv import ConvNormAct, Padding, init_convs, make_divisible
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

_norm = partial(BatchNorm2d, eps=1e-3)


class InvertedResidual(nn.Module):
    """Inverted residual (figure 3b): expand, filter depthwise, project linearly; the input is added if shapes agree.

    Shape: (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, expansion: int, stride: int, padding: Padding = "symmetric"
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        expand = [ConvNormAct(in_channels, hidden, norm=_norm, act=nn.ReLU6)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            ConvNormAct(hidden, hidden, 3, stride=stride, groups=hidden, norm=_norm, act=nn.ReLU6, padding=padding),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            _norm(out_channels),
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


@register_backbone("mobilenet_v2", PAPER, pretrained={"imagenet": torchvision_imagenet("mobilenet_v2-b0353104.pth")})
class MobileNetV2(Backbone):
    """MobileNetV2 up to its 320 channels, with its classifier only if `num_classes` is given.

    `width` is the paper's multiplier. `padding="tensorflow"` pads even sizes as TensorFlow does.

    Shape: (N, in_channels, H, W) -> maps of 24, 32, 96 and 320 channels at strides 4, 8, 16, 32 (x width).
    """

    native_strides = (4, 8, 16, 32)
    classifier_keys = ("features.18.", "classifier.")

    def __init__(
        self,
        *,
        width: float = 1.0,
        divisor: int = 8,
        padding: Padding = "symmetric",
        in_channels: int = 3,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        channels = make_divisible(32 * width, divisor)
        stem = ConvNormAct(in_channels, channels, 3, stride=2, norm=_norm, act=nn.ReLU6, padding=padding)
        features: list[nn.Module] = [stem]
        for expansion, base, repeats, stride in BOTTLENECKS:
            for index in range(repeats):
                out = make_divisible(base * width, divisor)
                step = stride if index == 0 else 1
                features.append(InvertedResidual(channels, out, expansion=expansion, stride=step, padding=padding))
                channels = out
        if num_classes:
            last = make_divisible(1280 * max(1.0, width), divisor)
            features.append(ConvNormAct(channels, last, norm=_norm, act=nn.ReLU6))
            self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))
        self.features = nn.Sequential(*features)
        self.channels = tuple(make_divisible(base * width, divisor) for base in (24, 32, 96, 320))
        init_convs(self)

    def blocks(self) -> list[nn.Module]:
        return list(self.features.children())[:18]

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for index, block in enumerate(self.blocks()):
            x = block(x)
            if index in (3, 6, 13, 17):  # the last blocks before strides 8, 16, 32 and the end
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
