"""LR-ASPP: the lite reduced atrous spatial pyramid pooling of Searching for MobileNetV3 (Howard et al.; ICCV 2019),
section 6.4 and figure 10.

A head for phones on a MobileNetV3 at output stride 16. One 1x1 convolution of the features, multiplied channel by
channel with a gate computed from their average, as in squeeze-and-excite; the result is upsampled to stride 8, and its
class scores are added to those of the backbone's map there.

Differences: the paper averages over windows of 49 x 49 at strides of 16 x 20, for images of 1024 x 2048
(`pooling_window=(49, 49)`); by default the average is over the whole map, as in torchvision. With
`backbone_options={"layout": "torchvision"}` the network matches torchvision's state dict of
`lraspp_mobilenet_v3_large`. The paper's fastest networks have half the channels in the backbone's last stage
(`backbone_options={"reduced_tail": True}`, "RF2" in table 7).
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from atrous.backbones import Backbone
from atrous.backbones.mobilenet_v3 import PAPER
from atrous.layers.conv import ConvNormAct, init_convs
from atrous.layers.resize import resize
from atrous.models.base import SegmentationModel, register_family, scaled
from atrous.models.deeplab_v3 import build_classifier

NOMINAL_OUTPUT_STRIDE = 16
"""The output stride at which pooling window and stride apply as given."""


class Gate(nn.Module):
    """Gate of each channel: average pooling, a 1x1 convolution, sigmoid, and bilinear upsampling to the input's size.

    Shape: (N, in_channels, h, w) -> (N, channels, h, w), or (N, channels, 1, 1) without a window.
    Source: figure 10, the lower branch.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        window: tuple[int, int] | None = None,
        stride: tuple[int, int] = (16, 20),
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.window = window
        self.stride = stride
        self.align_corners = align_corners
        self.output_stride = NOMINAL_OUTPUT_STRIDE

    def forward(self, x: Tensor) -> Tensor:
        if self.window is None:
            return self.conv(x.mean((2, 3), keepdim=True)).sigmoid()
        height, width = x.shape[-2:]
        tall, wide = ((side - 1) * NOMINAL_OUTPUT_STRIDE // self.output_stride + 1 for side in self.window)
        down, right = (max(1, step * NOMINAL_OUTPUT_STRIDE // self.output_stride) for step in self.stride)
        pooled = F.avg_pool2d(x, (min(tall, height), min(wide, width)), (down, right))
        return resize(self.conv(pooled).sigmoid(), (height, width), align_corners=self.align_corners)


class LRASPP(SegmentationModel):
    """LR-ASPP: backbone, gated 1x1 convolution, and classifiers on its result and on the map of stride 8.

    `channels` is the number of filters ("F" in table 7). `pooling_window` and `pooling_stride` (height, width in pixels
    of the map at output stride 16) are those of the gate's average; without a window it is over the whole map.

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W); `scores` are at stride 8, or the output stride if finer.
    Raises: `AtrousError` for an output stride the network does not support.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int = 21,
        output_stride: int = 16,
        channels: int = 128,
        pooling_window: tuple[int, int] | None = None,
        pooling_stride: tuple[int, int] = (16, 20),
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.align_corners = align_corners
        self.backbone = backbone
        low, high = backbone.channels[1], backbone.channels[-1]
        self.project = ConvNormAct(high, channels)
        self.gate = Gate(high, channels, window=pooling_window, stride=pooling_stride, align_corners=align_corners)
        for part in (self.project, self.gate):
            init_convs(part)
        self.low_classifier = build_classifier(low, num_classes)
        self.high_classifier = build_classifier(channels, num_classes)
        self.set_output_stride(output_stride)

    def set_output_stride(self, output_stride: int) -> SegmentationModel:
        super().set_output_stride(output_stride)
        self.gate.output_stride = output_stride
        return self

    def scores(self, image: Tensor) -> Tensor:
        _, low, *_, high = self.backbone(image)
        features = self.project(high) * self.gate(high)
        height, width = low.shape[-2:]
        features = resize(features, (height, width), align_corners=self.align_corners)
        return self.low_classifier(low) + self.high_classifier(features)


@register_family("lraspp", {"mobilenet_v3_large": {}, "mobilenet_v3_small": {}}, PAPER, options_of=LRASPP)
def lraspp(backbone: Backbone, width: float, **options: Any) -> LRASPP:
    """Build LR-ASPP on a MobileNetV3; `width` multiplies all numbers of channels."""
    return LRASPP(backbone, **{"channels": scaled(128, width), **options})
