"""Xception: Deep Learning with Depthwise Separable Convolutions (Chollet; CVPR 2017), in DeepLab v3+'s modified aligned
form (section 3.2 and figure 4): Xception-41, -65 and -71.

It differs from Chollet's in four ways: more layers (the entry flow keeps its structure, as in MSRA's "aligned"
Xception); strided separable convolutions instead of all max pooling, so that strides can be traded for dilations; batch
normalization and, in exit flow and heads, ReLU after each 3x3 depthwise convolution, as in MobileNet; and a 1x1
shortcut wherever the shape changes. The stride is in the last of a block's three separable convolutions, so the finest
map of a block is the output of its second convolution: the stages' maps are taken there, without activation, as in
TensorFlow DeepLab (`entry_flow/block2/unit_1/xception_module/separable_conv2_pointwise` is its low-level feature).

The ImageNet weights are those that TensorFlow DeepLab started from, as timm released them; only names differ.
"""

from __future__ import annotations

from functools import partial
from itertools import product

from torch import Tensor, nn
from torch.nn.functional import relu

from atrous.backbones.base import RELEASES_OF_TIMM, Backbone, register_backbone, timm_imagenet
from atrous.errors import AtrousError
from atrous.layers.conv import ConvNormAct, SeparableConv, init_convs
from atrous.layers.norm import BatchNorm2d
from atrous.registry import Paper

PAPER = Paper(
    title="Xception: Deep Learning with Depthwise Separable Convolutions",
    authors="Chollet",
    year=2017,
    arxiv="1610.02357",
)

ENTRY = ((128, 2), (256, 2), (728, 2))
ENTRY_71 = ((128, 2), (256, 1), (256, 2), (728, 1), (728, 2))

FLOWS = {41: (ENTRY, 8), 65: (ENTRY, 16), 71: (ENTRY_71, 16)}
"""Channels and stride of each entry block, and the number of middle blocks."""

IMAGENET = {
    depth: timm_imagenet(RELEASES_OF_TIMM + file, mean=(127.5,) * 3, std=(127.5,) * 3)
    for depth, file in {
        41: "tf_xception_41-e6439c97.pth",
        65: "tf_xception_65-c9ae96e8.pth",
        71: "tf_xception_71-8eec7df1.pth",
    }.items()
}

_norm = partial(BatchNorm2d, eps=1e-3)


class Block(nn.Module):
    """Residual block of three separable convolutions, a ReLU before each and none inside; the last may be strided.

    Shape: (N, in_channels, H, W) -> its finest map (N, channels[1], H, W), before the stride, and its output
    (N, channels[2], ceil(H / stride), ceil(W / stride)).
    Source: DeepLab v3+ figure 4.
    """

    def __init__(self, in_channels: int, channels: tuple[int, int, int], *, stride: int = 1) -> None:
        super().__init__()
        separable = partial(SeparableConv, norm=_norm, depthwise_act=None, pointwise_act=None)
        self.conv1 = separable(in_channels, channels[0])
        self.conv2 = separable(channels[0], channels[1])
        self.conv3 = separable(channels[1], channels[2], stride=stride)
        self.shortcut: nn.Module | None = None
        if stride > 1 or in_channels != channels[2]:
            self.shortcut = ConvNormAct(in_channels, channels[2], stride=stride, norm=_norm, act=None)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        finest = self.conv2(relu(self.conv1(relu(x))))
        return finest, self.conv3(relu(finest)) + (x if self.shortcut is None else self.shortcut(x))


@register_backbone("xception41", PAPER, depth=41, pretrained={"imagenet": IMAGENET[41]})
@register_backbone("xception65", PAPER, depth=65, pretrained={"imagenet": IMAGENET[65]})
@register_backbone("xception71", PAPER, depth=71, pretrained={"imagenet": IMAGENET[71]})
class Xception(Backbone):
    """Xception-41, -65 or -71 up to its 2048 channels, with its classifier only if `num_classes` is given.

    `width` multiplies every number of channels. The three multi-grid factors apply to the last three separable
    convolutions.

    Shape: (N, in_channels, H, W) -> maps of 256, 728, 1024 and 2048 channels at strides 4, 8, 16, 32 (x width).
    Raises: `AtrousError` for a depth other than 41, 65 and 71.
    """

    native_strides = (4, 8, 16, 32)
    classifier_keys = ("fc.",)

    def __init__(self, depth: int, *, width: float = 1.0, in_channels: int = 3, num_classes: int | None = None) -> None:
        super().__init__()
        if depth not in FLOWS:
            raise AtrousError(f"Xception-{depth}: the depths are {', '.join(map(str, FLOWS))}.")
        entry, repeats = FLOWS[depth]

        def scale(channels: int) -> int:
            return max(4, round(channels * width))

        self.stem = nn.Sequential(
            ConvNormAct(in_channels, scale(32), 3, stride=2, norm=_norm),
            ConvNormAct(scale(32), scale(64), 3, norm=_norm),
        )
        self.entry = nn.ModuleList()
        channels = scale(64)
        for base, stride in entry:
            self.entry.append(Block(channels, (scale(base),) * 3, stride=stride))
            channels = scale(base)
        self.middle = nn.ModuleList(Block(channels, (channels,) * 3) for _ in range(repeats))
        self.exit = Block(channels, (channels, scale(1024), scale(1024)), stride=2)
        self.exit2 = nn.Sequential(
            SeparableConv(scale(1024), scale(1536), norm=_norm),
            SeparableConv(scale(1536), scale(1536), norm=_norm),
            SeparableConv(scale(1536), scale(2048), norm=_norm),
        )
        self.channels = (scale(256), scale(728), scale(1024), scale(2048))
        self.fc = nn.Linear(scale(2048), num_classes) if num_classes else None
        self._low_level_blocks = [index for index, (_, stride) in enumerate(entry) if stride == 2][1:]
        init_convs(self)

    def released_keys(self) -> list[tuple[str, str]]:
        """List timm's names: entry, middle and exit flow are one sequence there."""
        names = [f"entry.{index}" for index in range(len(self.entry))]
        names += [f"middle.{index}" for index in range(len(self.middle))]
        names += ["exit", "exit2"]
        convs = [("conv_dw", "0.0"), ("bn_dw", "0.1"), ("conv_pw", "1.0"), ("bn_pw", "1.1")]
        table = [(r"head\.fc\.", "fc."), (r"stem\.(\d)\.conv\.", r"stem.\1.0."), (r"stem\.(\d)\.bn\.", r"stem.\1.1.")]
        for index, name in enumerate(names):
            table += [
                (rf"blocks\.{index}\.shortcut\.conv\.", f"{name}.shortcut.0."),
                (rf"blocks\.{index}\.shortcut\.bn\.", f"{name}.shortcut.1."),
            ]
            for number, (theirs, ours) in product((1, 2, 3), convs):
                layer = f"{number - 1}" if name == "exit2" else f"conv{number}"
                table.append((rf"blocks\.{index}\.stack\.conv{number}\.{theirs}\.", f"{name}.{layer}.{ours}."))
        return table

    def blocks(self) -> list[nn.Module]:
        return [*self.stem, *self.entry, *self.middle, self.exit, *self.exit2]

    def multi_grid_blocks(self) -> list[nn.Module]:
        return list(self.exit2)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps = []
        for index, block in enumerate(self.entry):
            finest, x = block(x)
            if index in self._low_level_blocks:
                maps.append(finest)
        for block in self.middle:
            _, x = block(x)
        finest, x = self.exit(x)
        return [*maps, finest, self.exit2(x)]

    def _classify(self, features: Tensor) -> Tensor:
        assert self.fc is not None
        return self.fc(features.mean((2, 3)))
