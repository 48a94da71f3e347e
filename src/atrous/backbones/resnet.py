"""Deep Residual Learning for Image Recognition (He, Zhang, Ren, Sun; CVPR 2016): ResNet-50, -101 and -152.

Parameter names are torchvision's (`conv1`, `bn1`, `layer1.0.conv1`, ...), so its state dicts load unchanged. Arguments
cover what the segmentation papers vary:

- `stem`: the paper's one 7x7 convolution ("plain"), or three 3x3 of 64, 64 and 128 channels ("deep"), as in TensorFlow
  DeepLab's "beta" checkpoints and PSPNet, or of 32, 32 and 64 ("v1c"), as in mmsegmentation's ResNetV1c.
- `stride_at`: the block that reduces the resolution: the "first" of the next stage (torchvision, PSPNet), or the "last"
  of the stage (TensorFlow slim, the beta checkpoints). Either way the stage's map is the one before the stride.
- `stages`: two or three end the network early. The cascade of DeepLab v3 has more than four; the additional ones repeat
  the last, with its width and the projection shortcut of its first block, each at twice the stride. Multi-grid factors
  then apply to all of them.
- `stride_on`: the convolution of that block with the stride: the "3x3" (torchvision, PSPNet, TensorFlow), or the first
  "1x1" (the paper's released Caffe networks, and so DeepLab v2).
- `whole_stage`: every 3x3 convolution of a dilated stage has the rate of the stage, its first included, as in Caffe and
  segmentation_models_pytorch. Without it the first keeps the rate of the stage before, because it is the one that lost
  its stride. The published rates of DeepLab v3, 2 * (1, 2, 4) at output stride 16, need it where `stride_at` is
  "first"; where that is "last" every convolution of a dilated stage has its rate anyway.
- `padding`: "tensorflow" pads even sizes in max pooling only at the end, as TensorFlow does; its strided convolutions
  pad symmetrically here too.
- `maps_from`: the maps of all stages but the last are a unit's "output", or the result of its last convolution before
  the sum ("conv3"), as TensorFlow DeepLab's decoder takes them.

The same weights compute different features with other values of `stride_at` and `stride_on`; so pretrained weights name
the values they were trained with.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from atrous.backbones.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    RELEASES_OF_GLUON,
    Backbone,
    register_backbone,
    timm_imagenet,
    torchvision_imagenet,
)
from atrous.errors import AtrousError
from atrous.layers.conv import ConvNormAct, ImagePadding, init_convs
from atrous.layers.norm import BatchNorm2d
from atrous.layers.pool import MaxPool2dSame
from atrous.registry import Paper

PAPER = Paper("Deep Residual Learning for Image Recognition", "He, Zhang, Ren, Sun", 2016, "1512.03385")

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks per stage by depth: table 1 of the paper."""

IMAGENET = {
    depth: torchvision_imagenet(file, stem="plain", stages=4, stride_at="first", stride_on="3x3")
    for depth, file in {
        50: "resnet50-0676ba61.pth",
        101: "resnet101-63fe2227.pth",
        152: "resnet152-394f9c45.pth",
    }.items()
}
IMAGENET_DEEP = {
    depth: timm_imagenet(
        RELEASES_OF_GLUON + file,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        stem="deep",
        stages=4,
        stride_at="first",
        stride_on="3x3",
    )
    for depth, file in {
        50: "gluon_resnet50_v1s-1762acc0.pth",
        101: "gluon_resnet101_v1s-60fe0cc1.pth",
        152: "gluon_resnet152_v1s-dcc41b81.pth",
    }.items()
}
"""Classifiers with the deep stem: timm's `resnet50s`, `resnet101s` and `resnet152s`, trained by GluonCV."""

BETA: dict[str, Any] = {"stem": "deep", "stride_at": "last", "maps_from": "conv3"}
"""TensorFlow DeepLab's ResNets."""

Stem = Literal["plain", "deep", "v1c"]
StrideAt = Literal["first", "last"]
StrideOn = Literal["3x3", "1x1"]
MapsFrom = Literal["output", "conv3"]


class Bottleneck(nn.Module):
    """Bottleneck residual block: 1x1, 3x3 and 1x1 convolutions, added to the input (figure 5, right).

    With `return_residual` it returns the result of the convolutions, before the sum, as well as the output.

    Shape: (N, in_channels, H, W) -> (N, 4 * mid_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        *,
        stride: int = 1,
        stride_on: StrideOn = "3x3",
        project: bool = False,
    ) -> None:
        super().__init__()
        out_channels = 4 * mid_channels
        first, second = (stride, 1) if stride_on == "1x1" else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, mid_channels, 1, stride=first, bias=False)
        self.bn1 = BatchNorm2d(mid_channels)
        self.conv2 = nn.Conv2d(mid_channels, mid_channels, 3, stride=second, padding=1, bias=False)
        self.bn2 = BatchNorm2d(mid_channels)
        self.conv3 = nn.Conv2d(mid_channels, out_channels, 1, bias=False)
        self.bn3 = BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if project or in_channels != out_channels:
            self.downsample = ConvNormAct(in_channels, out_channels, stride=stride, act=None)
        elif stride > 1:
            self.downsample = nn.MaxPool2d(1, stride=stride)  # an identity that subsamples

    def forward(self, x: Tensor, *, return_residual: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        output = self.relu(residual + (x if self.downsample is None else self.downsample(x)))
        return (residual, output) if return_residual else output


@register_backbone("resnet50", PAPER, depth=50, pretrained={"imagenet": (IMAGENET[50], IMAGENET_DEEP[50])})
@register_backbone("resnet101", PAPER, depth=101, pretrained={"imagenet": (IMAGENET[101], IMAGENET_DEEP[101])})
@register_backbone("resnet152", PAPER, depth=152, pretrained={"imagenet": (IMAGENET[152], IMAGENET_DEEP[152])})
@register_backbone("resnet50_beta", PAPER, depth=50, **BETA)
@register_backbone("resnet101_beta", PAPER, depth=101, **BETA)
@register_backbone(  # as its authors released it; the pretrained weights fit with stride_on="3x3"
    "resnet101_caffe", PAPER, depth=101, stride_on="1x1", pretrained={"imagenet": IMAGENET[101]}
)
class ResNet(Backbone):
    """ResNet-50, -101 or -152, with its classifier only if `num_classes` is given.

    `width` multiplies every number of channels.

    Shape: (N, in_channels, H, W) -> maps of 256, 512, 1024 and 2048 channels at strides 4, 8, 16, 32 (x width).
    Raises: `AtrousError` for a depth that is not in the paper, or fewer than two stages.
    """

    classifier_keys = ("fc.",)

    def __init__(
        self,
        depth: int,
        *,
        stem: Stem = "plain",
        stride_at: StrideAt = "first",
        stride_on: StrideOn = "3x3",
        whole_stage: bool = False,
        maps_from: MapsFrom = "output",
        padding: ImagePadding = "symmetric",
        stages: int = 4,
        in_channels: int = 3,
        width: float = 1.0,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise AtrousError(f"ResNet-{depth}: the depths are {', '.join(map(str, BLOCKS))}.")
        if stages < 2:
            raise AtrousError(f"stages {stages}: a ResNet has 4, a DeepLab v3 cascade more; 2 is the least.")
        self.stride_at = stride_at
        self.whole_stage = whole_stage and stride_at == "first"
        self.maps_from = maps_from
        base = max(4, round(64 * width))
        channels = 2 * base if stem == "deep" else base
        self.conv1: nn.Module = nn.Conv2d(in_channels, base, 7, stride=2, padding=3, bias=False)
        if stem != "plain":
            half = channels // 2
            self.conv1 = nn.Sequential(
                *ConvNormAct(in_channels, half, 3, stride=2),
                *ConvNormAct(half, half, 3),
                nn.Conv2d(half, channels, 3, padding=1, bias=False),
            )
        self.bn1 = BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = (MaxPool2dSame if padding == "tensorflow" else nn.MaxPool2d)(3, stride=2, padding=1)
        repeats = [min(stage, 3) for stage in range(stages)]
        for stage, like in enumerate(repeats):
            mid, count = base * 2**like, BLOCKS[depth][like]
            last = 2 if stage < stages - 1 else 1
            stride_of = {"first": {0: 2 if stage > 0 else 1}, "last": {count - 1: last}}[stride_at]
            blocks = []
            for index in range(count):
                step = stride_of.get(index, 1)
                blocks.append(Bottleneck(channels, mid, stride=step, stride_on=stride_on, project=index == 0))
                channels = 4 * mid
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.native_strides = tuple(4 * 2**stage for stage in range(stages))
        self.channels = tuple(4 * base * 2**like for like in repeats)
        self.fc = nn.Linear(channels, num_classes) if num_classes else None
        init_convs(self)

    def stages(self) -> list[nn.Sequential]:
        """List the residual stages: conv2_x to conv5_x in the paper's names, then the repetitions of the last."""
        return [self.get_submodule(f"layer{stage + 1}") for stage in range(len(self.channels))]  # type: ignore[misc]

    def blocks(self) -> list[nn.Module]:
        stem = self.conv1 if isinstance(self.conv1, nn.Sequential) else [self.conv1]
        return [*stem, self.maxpool, *(block for stage in self.stages() for block in stage)]

    def possible_output_strides(self) -> list[int]:
        return [stride for stride in super().possible_output_strides() if stride > 1]  # torch pads no pool so widely

    def multi_grid_blocks(self) -> list[nn.Module]:
        return [block for stage in self.stages()[3:] for block in stage]

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        *stages, last = self.stages()
        for stage in stages:
            if self.stride_at == "first" and self.maps_from == "output":
                x = stage(x)
                maps.append(x)
            else:
                finest, x = self._run_units(stage, x)
                maps.append(finest)
        return [*maps, last(x)]

    def _run_units(self, stage: nn.Sequential, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run a stage unit by unit; return its map, which is that of the last unit without a stride, and its output."""
        units = list(stage)
        strided = units.pop() if self.stride_at == "last" else None
        *units, finest = units
        for unit in units:
            x = unit(x)
        residual, x = finest(x, return_residual=True)
        return residual if self.maps_from == "conv3" else x, x if strided is None else strided(x)

    def _classify(self, features: Tensor) -> Tensor:
        assert self.fc is not None
        return self.fc(features.mean((2, 3)))
