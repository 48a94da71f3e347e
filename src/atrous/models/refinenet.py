"""RefineNet: Multi-Path Refinement Networks for High-Resolution Semantic Segmentation (Lin, Milan, Shen, Reid; CVPR
2017).

A ResNet at its full stride of 32 and a cascade of RefineNet blocks from its coarsest feature map to its finest. Each
block adapts its inputs with residual units, fuses them at the finest resolution among them, gathers context with
chained residual pooling, and refines the result with residual units. Gradients reach every layer through residual
connections.

Differences between the paper and the released networks, each available as an argument:

- The paper's figure has two stages of chained pooling; the released networks have four (`pooling_stages`). Later models
  (NYUDv2, Person-Part, ADE20K) convolve before they pool (`pooling_order="conv-pool"`).
- In the paper a block ends with one residual unit, and the next block adapts its output with two more: three units in
  sequence. The released networks have all three at the end of the block, followed by the 3x3 convolution of the next
  block's fusion. This file follows the release.
- The MATLAB release enlarges the image by 1.2 before the first convolution, in training, too: `scales=(1.2,)`. The
  "2-scale" network of the ablation runs a ResNet on each of two scales: `scales=(1.2, 0.6)`. The paper does not specify
  how their maps are combined: in the release, which has it as a commented setting, and here, the maps of one stage
  enter one fusion.
- `cascades=1` fuses all four stages in one block, `cascades=2` two stages per block; the paper's network has 4
  (figure 7). The release builds any grouping, but adapts the last stage to 512 channels in each and reduces it to 256
  in the fusion; with one or two blocks it is adapted to 256 here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from atrous.backbones import Backbone
from atrous.errors import AtrousError
from atrous.layers.conv import conv3x3
from atrous.layers.resize import resize
from atrous.models.base import (
    SegmentationModel,
    build_backbone,
    register_model,
    register_on_any_backbone,
    scaled,
)
from atrous.registry import Paper

PAPER = Paper(
    title="RefineNet: Multi-Path Refinement Networks for High-Resolution Semantic Segmentation",
    authors="Lin, Milan, Shen, Reid",
    year=2017,
    arxiv="1611.06612",
)

PoolingOrder = Literal["pool-conv", "conv-pool"]


class ResidualConvUnit(nn.Module):
    """Residual convolution unit: x + two 3x3 convolutions, each after a ReLU, without normalization.

    Only the first convolution has a bias.

    Shape: (N, channels, H, W) -> the same.
    Source: RefineNet figure 3b; the biases are those of the released networks.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels, bias=True)
        self.conv2 = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class MultiResolutionFusion(nn.Module):
    """Multi-resolution fusion: apply a 3x3 convolution to each map, resize all to the finest and add them.

    Shape: [(N, in_channels[i], h_i, w_i), ...] -> (N, out_channels, max h_i, max w_i). The first is the finest.
    Source: RefineNet figure 3c.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, *, align_corners: bool = True) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv3x3(channels, out_channels) for channels in in_channels)
        self.align_corners = align_corners

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        finest, *coarser = (conv(x) for conv, x in zip(self.convs, maps, strict=True))
        height, width = finest.shape[-2:]
        for x in coarser:
            finest = finest + resize(x, (height, width), align_corners=self.align_corners)
        return finest


class ChainedResidualPooling(nn.Module):
    """Chained residual pooling: a chain of 5x5 max pooling and 3x3 convolution, every link added to the input.

    `order` is the order within a link of the chain: "pool-conv" in the paper, "conv-pool" in the authors' later models.

    Shape: (N, channels, H, W) -> the same.
    Source: RefineNet figure 3d.
    """

    def __init__(self, channels: int, *, stages: int = 4, order: PoolingOrder = "pool-conv") -> None:
        super().__init__()
        self.order = order
        self.convs = nn.ModuleList(conv3x3(channels, channels) for _ in range(stages))
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        total = link = F.relu(x)
        for conv in self.convs:
            link = conv(self.pool(link)) if self.order == "pool-conv" else self.pool(conv(link))
            total = total + link
        return total


class Adapt(nn.Sequential):
    """Adapt a backbone's feature map: a 3x3 convolution to fewer channels, then two residual units.

    Shape: (N, in_channels, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            conv3x3(in_channels, out_channels), ResidualConvUnit(out_channels), ResidualConvUnit(out_channels)
        )


class RefineBlock(nn.Module):
    """RefineNet block: adapt the backbone's maps, fuse them with the coarser block's output, pool in a chain, refine.

    Shape: `maps` [(N, in_channels[i], h_i, w_i), ...], the finest first, and `coarser` (N, coarser_channels, h, w), the
    output of the coarser block, if any -> (N, channels, max h_i, max w_i).
    Source: figure 3a.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        *,
        coarser_channels: int | None = None,
        pooling_stages: int,
        pooling_order: PoolingOrder,
        output_units: int,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.adapt = nn.ModuleList(Adapt(inputs, channels) for inputs in in_channels)
        widths = [channels] * len(in_channels) + ([coarser_channels] if coarser_channels else [])
        self.fuse = MultiResolutionFusion(widths, channels, align_corners=align_corners) if len(widths) > 1 else None
        self.pooling = ChainedResidualPooling(channels, stages=pooling_stages, order=pooling_order)
        self.refine = nn.Sequential(*(ResidualConvUnit(channels) for _ in range(output_units)))

    def forward(self, maps: Sequence[Tensor], coarser: Tensor | None) -> Tensor:
        paths = [adapt(x) for adapt, x in zip(self.adapt, maps, strict=True)]
        if coarser is not None:
            paths.append(coarser)
        return self.refine(self.pooling(paths[0] if self.fuse is None else self.fuse(paths)))


class RefineNet(SegmentationModel):
    """RefineNet: one backbone per scale of the image, and a cascade of RefineNet blocks from coarse to fine.

    Every block has `channels` channels, except the first of four, which has twice as many. A block ends with
    `output_units` residual units.

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W); `scores` are at stride 4 of the (finest) scaled image.
    Raises: `AtrousError` for an unsupported number of cascades, or scales that do not match the backbones.
    """

    def __init__(
        self,
        backbone: Backbone,
        *further: Backbone,
        num_classes: int = 21,
        output_stride: int = 32,
        cascades: int = 4,
        channels: int = 256,
        pooling_stages: int = 4,
        pooling_order: PoolingOrder = "pool-conv",
        output_units: int = 3,
        scales: Sequence[float] = (1.0,),
        dropout: float = 0.5,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        if cascades not in (1, 2, 4):
            raise AtrousError(f"cascades {cascades}: choose 1, 2 or 4.")
        if len(scales) != 1 + len(further) or any(scale <= 0 for scale in scales):
            raise AtrousError(
                f"scales {tuple(scales)}: give one positive scale for each of {1 + len(further)} backbones."
            )
        self.num_classes = num_classes
        self.align_corners = align_corners
        self.backbone = backbone
        self.further = nn.ModuleList(further)
        self.scales = tuple(Fraction(str(scale)) for scale in scales)
        self.dropout = nn.Dropout(dropout)
        self.stages_per_block = 4 // cascades
        self.blocks = nn.ModuleList()
        coarser_channels: int | None = None
        for taps in _group_stages(backbone.channels, self.stages_per_block):
            width = 2 * channels if cascades == 4 and coarser_channels is None else channels
            inputs = [tap for tap in taps for _ in scales]
            self.blocks.append(
                RefineBlock(
                    inputs,
                    width,
                    coarser_channels=coarser_channels,
                    pooling_stages=pooling_stages,
                    pooling_order=pooling_order,
                    output_units=output_units,
                    align_corners=align_corners,
                )
            )
            coarser_channels = width
        self.classifier = conv3x3(channels, num_classes, bias=True)
        for part in self.head():
            for layer in part.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.normal_(layer.weight, std=0.01)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
        self.set_output_stride(output_stride)

    def set_output_stride(self, output_stride: int) -> SegmentationModel:
        super().set_output_stride(output_stride)
        for backbone in self.further:
            assert isinstance(backbone, Backbone)
            backbone.set_output_stride(output_stride)
        return self

    def head(self) -> list[nn.Module]:
        return [self.blocks, self.classifier]

    def scores(self, image: Tensor) -> Tensor:
        per_scale = []
        for backbone, scale in zip([self.backbone, *self.further], self.scales, strict=True):
            *fine, coarse, coarsest = backbone(self._resize(image, scale))
            per_scale.append([*fine, self.dropout(coarse), self.dropout(coarsest)])
        stages = list(zip(*per_scale, strict=True))  # fine to coarse, each the maps of all scales
        x: Tensor | None = None
        for block, taps in zip(self.blocks, _group_stages(stages, self.stages_per_block), strict=True):
            x = block([tap for stage in taps for tap in stage], x)
        assert x is not None
        return self.classifier(self.dropout(x))

    def _resize(self, image: Tensor, scale: Fraction) -> Tensor:
        if scale == 1:
            return image
        p, q = scale.numerator, scale.denominator
        height, width = ((2 * side * p + q) // (2 * q) for side in image.shape[-2:])  # round(side * scale), exactly
        return resize(image, (max(height, 1), max(width, 1)), align_corners=self.align_corners)


def _group_stages(stages: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Split stages, given fine to coarse, into groups of `size`: coarse groups first, each group fine to coarse."""
    return [stages[start : start + size] for start in range(len(stages) - size, -1, -size)]


@register_model("refinenet.resnet50", PAPER, options_of=RefineNet, backbone="resnet50")
@register_model("refinenet.resnet101", PAPER, options_of=RefineNet, backbone="resnet101")
@register_model("refinenet.resnet152", PAPER, options_of=RefineNet, backbone="resnet152")
@register_on_any_backbone("refinenet", PAPER, options_of=RefineNet)
def refinenet(
    backbone: str,
    *,
    scales: Sequence[float] = (1.0,),
    width: float = 1.0,
    in_channels: int = 3,
    backbone_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> RefineNet:
    """Build RefineNet on ResNets or other backbones, one per scale; `width` multiplies all numbers of channels."""
    built = [
        build_backbone(backbone, width=width, in_channels=in_channels, backbone_options=backbone_options)
        for _ in scales
    ]
    return RefineNet(*built, scales=scales, **{"channels": scaled(256, width), **options})
