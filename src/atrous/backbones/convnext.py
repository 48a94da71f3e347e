"""ConvNeXt: A ConvNet for the 2020s (Liu, Mao, Wu, Feichtenhofer, Darrell, Xie; CVPR 2022): ConvNeXt-Tiny.

A ResNet modernized step by step after the design of Swin Transformers: non-overlapping patches instead of strided 3x3
convolutions, 7x7 depthwise convolutions, inverted bottlenecks, GELU, and layer normalization once per block.

Parameter names are torchvision's (`features.0.0`, `features.1.0.block.0`, `features.1.0.layer_scale`), so its state
dicts load unchanged. Two things differ. torchvision drops the last pixels of sizes that 32 does not divide; here
patches are padded at the bottom and on the right, and sizes are rounded up, so that strides can be traded for dilations
exactly. Stochastic depth, with which the classifier was trained, is left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atrous.backbones.base import Backbone, register_backbone, torchvision_imagenet
from atrous.layers.conv import CeilConv2d, Conv2d
from atrous.layers.norm import LayerNorm2d
from atrous.registry import Paper

PAPER = Paper("A ConvNet for the 2020s", "Liu, Mao, Wu, Feichtenhofer, Darrell, Xie", 2022, "2201.03545")

STAGES = ((96, 3), (192, 3), (384, 9), (768, 3))
"""Channels and blocks of each stage of ConvNeXt-T: section 3, table 9."""


class Pointwise(nn.Linear):
    """A 1x1 convolution whose weight is a matrix, as torchvision has it.

    Shape: (N, in_features, H, W) -> (N, out_features, H, W).
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


class Block(nn.Module):
    """7x7 depthwise convolution, layer normalization and an inverted bottleneck, scaled and added to the input.

    Shape: (N, channels, H, W) -> the same.
    Source: figure 4; layer scale of 1e-6: appendix A.1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer_scale = nn.Parameter(torch.full((channels, 1, 1), 1e-6))
        self.block = nn.Sequential(
            Conv2d(channels, channels, 7, padding=3, groups=channels),
            nn.Identity(),  # torchvision permutes the axes here, and back at the end
            LayerNorm2d(channels),
            Pointwise(channels, 4 * channels),
            nn.GELU(),
            Pointwise(4 * channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer_scale * self.block(x)


@register_backbone("convnext_tiny", PAPER, pretrained={"imagenet": torchvision_imagenet("convnext_tiny-983f1562.pth")})
class ConvNeXt(Backbone):
    """ConvNeXt-Tiny, with its classifier only if `num_classes` is given.

    `width` multiplies every number of channels.

    Shape: (N, in_channels, H, W) -> maps of 96, 192, 384 and 768 channels at strides 4, 8, 16, 32 (x width).
    """

    native_strides = (4, 8, 16, 32)
    classifier_keys = ("classifier.",)

    def __init__(self, *, width: float = 1.0, in_channels: int = 3, num_classes: int | None = None) -> None:
        super().__init__()
        self.channels = tuple(max(4, round(channels * width)) for channels, _ in STAGES)
        features: list[nn.Module] = []
        inputs = in_channels
        for channels, (_, count) in zip(self.channels, STAGES, strict=True):
            if not features:
                features.append(nn.Sequential(CeilConv2d(inputs, channels, 4, stride=4), LayerNorm2d(channels)))
            else:
                features.append(nn.Sequential(LayerNorm2d(inputs), CeilConv2d(inputs, channels, 2, stride=2)))
            features.append(nn.Sequential(*(Block(channels) for _ in range(count))))
            inputs = channels
        self.features = nn.Sequential(*features)
        self.classifier: nn.Module | None = None
        if num_classes:
            self.classifier = nn.Sequential(LayerNorm2d(inputs), nn.Flatten(), nn.Linear(inputs, num_classes))
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def blocks(self) -> list[nn.Module]:
        blocks: list[nn.Module] = []
        for index, part in enumerate(self.features.children()):  # patches and stages by turns
            blocks += part.children() if index % 2 else [part]
        return blocks

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for index, part in enumerate(self.features):
            x = part(x)
            if index % 2:
                maps.append(x)
        return maps

    def _classify(self, features: Tensor) -> Tensor:
        assert self.classifier is not None
        return self.classifier(features.mean((2, 3), keepdim=True))
