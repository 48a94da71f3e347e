"""FCN: Fully Convolutional Networks for Semantic Segmentation (Long, Shelhamer, Darrell; CVPR 2015, PAMI 2017).

A classifier applied convolutionally gives a coarse map of class scores; transposed convolutions upsample it to the size
of the image. Skip connections add the scores of finer layers on the way: FCN-32s has none, FCN-16s adds pool4, FCN-8s
pool4 and pool3.

As released: the image is padded by 100 pixels, so that fc6 has a non-empty input for images of any size; the surplus is
cropped at fixed offsets. The transposed convolutions are fixed to bilinear interpolation (`upsampling="fixed"`); the
paper also learns all but the last ("learned"). The "at once" variant trains all skips together, with the skipped
features scaled down by fixed factors.

Differences: `upsampling="resize"` is a modern form of the network, with neither padding of the image nor transposed
convolutions: fc6 keeps the size of its input, and scores are resized to the size of those they are added to. It can run
at other output strides; the released network cannot, because its upsampling factors are fixed.

On other backbones (`create_model("fcn_8s", backbone=NAME)`) the score maps are those of the last three stages, and
`upsampling` is "resize".

`fcn.resnet50` is the network that other libraries call FCN: a small head on a dilated ResNet, identical to
torchvision's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atrous.backbones import Backbone
from atrous.errors import AtrousError
from atrous.layers.heads import FCNHead
from atrous.layers.pad import crop
from atrous.layers.resize import BilinearDeconv
from atrous.models.base import (
    ModelWithAuxiliaryHead,
    SegmentationModel,
    build_backbone,
    register_family,
    register_model,
    register_on_any_backbone,
)
from atrous.registry import Paper

PAPER = Paper(
    title="Fully Convolutional Networks for Semantic Segmentation",
    authors="Long, Shelhamer, Darrell",
    year=2015,
    arxiv="1411.4038",
)

Upsampling = Literal["fixed", "learned", "resize"]

IMAGE_PADDING = 100
"""Padding of the first convolution in pixels; one of them is the convolution's usual padding."""

CROP_OFFSETS: dict[int, tuple[int, ...]] = {32: (19,), 16: (5, 27), 8: (5, 9, 31)}
"""For each finest stride, the offsets in pixels at which the padding is cropped: at each skip, then at the output."""

AT_ONCE_SCALES = (0.01, 0.0001)
"""Scales of the features of pool4 and pool3 in the network that is trained at once."""


class Scale(nn.Module):
    """Multiply each channel by a fixed factor.

    Shape: (N, C, h, w) -> (N, C, h, w).
    """

    def __init__(self, channels: int, factor: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), factor), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None]


def _zero_classifier(in_channels: int, num_classes: int) -> nn.Conv2d:
    """Build a 1x1 classifier of zeros.

    Source: section 4: random initialization "yielded neither better performance nor faster convergence".
    """
    conv = nn.Conv2d(in_channels, num_classes, 1)
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


class FCN(SegmentationModel):
    """FCN-32s, FCN-16s or FCN-8s on a VGG-16 with fc6 and fc7.

    `finest` is the stride of the finest scores: 32, 16 or 8. `upsampling_bias` gives the first transposed convolution a
    bias, as in the release of CRF-RNN.

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W); `scores` have the finest stride and include the padding.
    Raises: `AtrousError` for an unknown `finest` stride.
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
        if finest not in CROP_OFFSETS:
            raise AtrousError(f"finest {finest}: the finest stride of FCN is 32, 16 or 8.")
        self.num_classes = num_classes
        self.is_padded = upsampling != "resize"
        self.offsets = CROP_OFFSETS[finest]
        self.backbone = backbone
        *_, pool3, pool4, fc7 = backbone.channels
        skips = (pool4, pool3)[: len(self.offsets) - 1]
        self.score = _zero_classifier(fc7, num_classes)
        self.score_skips = nn.ModuleList(
            nn.Sequential(*([Scale(n, factor)] if at_once else []), _zero_classifier(n, num_classes))
            for n, factor in zip(skips, AT_ONCE_SCALES, strict=False)
        )
        self.upscore = nn.ModuleList()
        if self.is_padded:
            learned = upsampling == "learned"
            self.upscore.extend(
                BilinearDeconv(num_classes, 2, learned=learned, bias=upsampling_bias and index == 0)
                for index in range(len(skips))
            )
            self.upscore.append(BilinearDeconv(num_classes, finest))
        self.set_output_stride(output_stride)

    def possible_output_strides(self) -> list[int]:
        return [32] if self.is_padded else super().possible_output_strides()

    def scores(self, image: Tensor) -> Tensor:
        if self.is_padded:
            image = F.pad(image, [IMAGE_PADDING - 1] * 4)
        *_, pool3, pool4, fc7 = self.backbone(image)
        scores = self.score(fc7)
        for step, (score_skip, pool) in enumerate(zip(self.score_skips, (pool4, pool3), strict=False)):
            skipped = score_skip(pool)
            if self.is_padded:
                scores = self.upscore[step](scores)
                offset = self.offsets[step]
                scores = scores + crop(skipped, scores.shape[2:], top=offset, left=offset)
            else:
                scores = self._to_size_of(skipped, scores) + skipped
        return scores

    def forward(self, image: Tensor) -> Tensor:
        if not self.is_padded:
            return super().forward(image)
        offset = self.offsets[-1]
        return crop(self.upscore[-1](self.scores(image)), image.shape[2:], top=offset, left=offset)


class DilatedFCN(ModelWithAuxiliaryHead):
    """A dilated backbone with an FCN head, and a second FCN head on the stage before for an auxiliary loss.

    `auxiliary_weight` is the weight of the auxiliary loss, `auxiliary_channels` the number of channels of its head, by
    default a quarter of its input's. With `head_convs` above 1 the main head has as many 3x3 convolutions, and one more
    that fuses their result with their input, as in mmsegmentation.

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
        auxiliary_weight: float = 0.5,
        auxiliary_channels: int | None = None,
        head_convs: int = 1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.classifier = FCNHead(backbone.channels[-1], num_classes, dropout=dropout, convs=head_convs)
        self.auxiliary_weight = auxiliary_weight
        self.auxiliary = (
            FCNHead(backbone.channels[-2], num_classes, dropout=dropout, channels=auxiliary_channels)
            if auxiliary
            else None
        )
        self.set_output_stride(output_stride)

    def _classify(self, maps: list[Tensor]) -> Tensor:
        return self.classifier(maps[-1])


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
    """Build FCN on VGG-16; `width` multiplies the backbone's numbers of channels."""
    fc = {"padding": 3 if upsampling == "resize" else 0}
    backbone = build_backbone("vgg16", width=width, in_channels=in_channels, backbone_options=backbone_options, fc=fc)
    return FCN(backbone, upsampling=upsampling, **options)


@register_on_any_backbone("fcn_32s", PAPER, options_of=FCN, finest=32)
@register_on_any_backbone("fcn_16s", PAPER, options_of=FCN, finest=16)
@register_on_any_backbone("fcn_8s", PAPER, options_of=FCN, finest=8)
@register_on_any_backbone("fcn_8s_at_once", PAPER, options_of=FCN, finest=8, at_once=True)
def fcn_on_backbone(
    backbone: str,
    *,
    width: float = 1.0,
    in_channels: int = 3,
    backbone_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> FCN:
    """Build FCN on a backbone other than VGG-16, with `upsampling="resize"`: the score maps of its last three stages.

    `width` multiplies the backbone's numbers of channels.

    Raises: `AtrousError` for another `upsampling`: the offsets of transposed convolutions hold for VGG-16 alone.
    """
    if options.setdefault("upsampling", "resize") != "resize":
        raise AtrousError(f"upsampling '{options['upsampling']}': on backbones other than VGG-16 choose 'resize'.")
    built = build_backbone(backbone, width=width, in_channels=in_channels, backbone_options=backbone_options)
    return FCN(built, **options)


@register_family("fcn", {"resnet50": {}, "resnet101": {}}, PAPER, options_of=DilatedFCN)
def fcn(backbone: Backbone, width: float, **options: Any) -> DilatedFCN:
    """Build the FCN head on a ResNet; `width` multiplies the ResNet's numbers of channels."""
    return DilatedFCN(backbone, **options)
