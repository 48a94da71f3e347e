"""FCN: Fully Convolutional Networks for Semantic Segmentation (Long, Shelhamer, Darrell; CVPR 2015, PAMI 2017).

A classifier run as a convolution gives a coarse map of class scores; transposed convolutions bring it back to the size
of the image. Skips add the scores of finer layers on the way: FCN-32s has none, FCN-16s takes in pool4, FCN-8s pool3 as
well.

As released: the image is padded by 100 pixels, so that even the smallest one leaves fc6 something to look at; the
surplus is cropped at fixed offsets. The transposed convolutions are fixed to bilinear interpolation ("fixed"); the
paper also learns all but the last ("learned"). "At once" trains all skips together, with the skipped features scaled
down by fixed factors.

What differs, by name: `upsampling="resize"` is the network as it would be written today, with neither pad nor
transposed convolutions; fc6 keeps the size of its map, and scores are resized to those they are added to. It can be
dilated, the released one cannot, for its factors of upsampling are fixed.

`fcn.resnet50` is what others call FCN: a small head on a dilated ResNet, here exactly torchvision's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atrous.backbones import Backbone
from atrous.errors import AtrousError
from atrous.layers.conv import init_convs
from atrous.layers.heads import FCNHead
from atrous.layers.pad import crop
from atrous.layers.resize import BilinearDeconv
from atrous.models.base import SegmentationModel, build_backbone, register_family, register_model
from atrous.registry import Paper

PAPER = Paper(
    title="Fully Convolutional Networks for Semantic Segmentation",
    authors="Long, Shelhamer, Darrell",
    year=2015,
    arxiv="1411.4038",
)

Upsampling = Literal["fixed", "learned", "resize"]

PAD = 100
"""Padding of the first convolution in pixels, one of which is the convolution's own."""

FINEST: dict[int, tuple[int, ...]] = {32: (19,), 16: (5, 27), 8: (5, 9, 31)}
"""Offsets at which the surplus of the padding is cropped: at each skip, and at the end, by the finest stride."""

AT_ONCE = (0.01, 0.0001)
"""Factors of the features of pool4 and pool3 in the network that is trained at once."""


class Scale(nn.Module):
    """Multiply each channel by a number that is not trained.

    Shape: (N, C, h, w) -> (N, C, h, w).
    """

    def __init__(self, channels: int, factor: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), factor), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None]


class FCN(SegmentationModel):
    """FCN-32s, -16s or -8s, by the `finest` stride that is scored. The backbone is a VGG-16 with fc6 and fc7.

    `upsampling_bias` gives the first transposed convolution a bias, as CRF-RNN's release has it.

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W); `scores` are at the finest stride, still with the padding.
    Raises: `AtrousError` for a `finest` stride or an `upsampling` there is not.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int = 21,
        finest: int = 8,
        at_once: bool = False,
        upsampling: Upsampling = "fixed",
        upsampling_bias: bool = False,
        output_stride: int = 32,
    ) -> None:
        super().__init__()
        if finest not in FINEST:
            raise AtrousError(f"finest {finest}: FCN is 32s, 16s or 8s.")
        if upsampling not in ("fixed", "learned", "resize"):
            raise AtrousError(f"upsampling '{upsampling}': FCN knows 'fixed', 'learned' and 'resize'.")
        self.num_classes = num_classes
        self.released = upsampling != "resize"
        self.offsets = FINEST[finest]
        self.backbone = backbone
        *_, pool3, pool4, fc7 = backbone.channels
        skips = (pool4, pool3)[: len(self.offsets) - 1]
        self.score = _score(fc7, num_classes)
        self.score_skips = nn.ModuleList(
            nn.Sequential(*([Scale(n, factor)] if at_once else []), _score(n, num_classes))
            for n, factor in zip(skips, AT_ONCE, strict=False)
        )
        self.upscore = nn.ModuleList()
        if self.released:
            learned = upsampling == "learned"
            self.upscore.extend(
                BilinearDeconv(num_classes, 2, learned=learned, bias=upsampling_bias and index == 0)
                for index in range(len(skips))
            )
            self.upscore.append(BilinearDeconv(num_classes, finest))
        self.set_output_stride(output_stride)

    def possible_output_strides(self) -> list[int]:
        return [32] if self.released else super().possible_output_strides()

    def scores(self, image: Tensor) -> Tensor:
        if self.released:
            image = F.pad(image, [PAD - 1] * 4)
        *_, pool3, pool4, fc7 = self.backbone(image)
        scores = self.score(fc7)
        for step, (score_skip, pool) in enumerate(zip(self.score_skips, (pool4, pool3), strict=False)):
            skipped = score_skip(pool)
            if self.released:
                scores = self.upscore[step](scores)
                offset = self.offsets[step]
                scores = scores + crop(skipped, scores.shape[2:], top=offset, left=offset)
            else:
                scores = self._to_size_of(skipped, scores) + skipped
        return scores

    def forward(self, image: Tensor) -> Tensor:
        if not self.released:
            return super().forward(image)
        offset = self.offsets[-1]
        return crop(self.upscore[-1](self.scores(image)), image.shape[2:], top=offset, left=offset)


def _score(in_channels: int, num_classes: int) -> nn.Conv2d:
    """A layer of zeros: random ones "yielded neither better performance nor faster convergence" (section 4)."""
    conv = nn.Conv2d(in_channels, num_classes, 1)
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


@register_model("fcn_32s.vgg16", PAPER, options_of=FCN, finest=32)
@register_model("fcn_16s.vgg16", PAPER, options_of=FCN, finest=16)
@register_model("fcn_8s.vgg16", PAPER, options_of=FCN, finest=8)
@register_model("fcn_8s_at_once.vgg16", PAPER, options_of=FCN, finest=8, at_once=True)
def fcn_vgg16(
    *,
    upsampling: Upsampling = "fixed",
    width: float = 1.0,
    in_channels: int = 3,
    backbone_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> FCN:
    """FCN on VGG-16; `width` scales all channels of the backbone, `backbone_options` go to it."""
    fc = {"padding": 3 if upsampling == "resize" else 0}
    backbone = build_backbone("vgg16", width=width, in_channels=in_channels, backbone_options=backbone_options, fc=fc)
    return FCN(backbone, upsampling=upsampling, **options)


class DilatedFCN(SegmentationModel):
    """A dilated backbone and a head of one 3x3 convolution; the same on the stage before, for an auxiliary loss.

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W).
    Source: torchvision's `fcn_resnet50` and `fcn_resnet101`.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int = 21,
        output_stride: int = 8,
        auxiliary: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.classifier = FCNHead(backbone.channels[-1], num_classes, dropout=dropout)
        self.auxiliary = FCNHead(backbone.channels[-2], num_classes, dropout=dropout) if auxiliary else None
        for part in self.head():
            init_convs(part)
        self.set_output_stride(output_stride)

    def scores(self, image: Tensor) -> Tensor:
        return self.classifier(self.backbone(image)[-1])

    def training_outputs(self, image: Tensor) -> list[tuple[Tensor, float]]:
        if self.auxiliary is None:
            return super().training_outputs(image)
        maps = self.backbone(image)
        outputs = ((self.classifier(maps[-1]), 1.0), (self.auxiliary(maps[-2]), 0.5))
        return [(self._to_size_of(image, scores), weight) for scores, weight in outputs]


@register_family("fcn", {"resnet50": {}, "resnet101": {}}, PAPER, options_of=DilatedFCN)
def fcn(backbone: Backbone, width: float, **options: Any) -> DilatedFCN:
    """The FCN head on a ResNet; `width` scales its channels."""
    return DilatedFCN(backbone, **options)
