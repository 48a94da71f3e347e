"""DeepLab v2: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully Connected CRFs
(Chen, Papandreou, Kokkinos, Murphy, Yuille; PAMI 2018).

Atrous spatial pyramid pooling (ASPP) replaces the classifier of v1: parallel branches, each with its own fc6 at its own
atrous rate and its own fc7 and fc8, classify the same features, and their scores are added. The rates are an argument:
`ASPP_S`, `ASPP_L` and, with a single branch, `LARGE_FOV`. On ResNet-101 a branch is one 3x3 convolution.
`deeplab_v2_msc` runs on three scales of the image and takes the maximum of their scores. On other backbones
(`create_model("deeplab_v2", backbone=NAME)`) the branches are those of ResNet-101; `deeplab_v1` has the single branch
there, with fc6, fc7 and fc8.

As released, and by default: on VGG-16 the pooling of v1, without its average pooling; on ResNet-101 the stride of a
stage is on its first 1x1 convolution, so that every 3x3 convolution of a dilated stage is dilated, the first included.
This is exact, because the layer that loses its stride is a 1x1 convolution. Batch normalization is frozen in training
(`layers.norm.freeze_batch_norm`).

Differences: images are padded with zeros (the mean) to 8 k + 1 pixels per side, 32 k + 1 for three scales; 321 and 513
need no padding. At these sizes Caffe's rounding of pool1 agrees with that of other libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from atrous.backbones import Backbone
from atrous.backbones.vgg import FullyConnected
from atrous.errors import AtrousError
from atrous.layers.conv import init_convs
from atrous.layers.dilate import set_dilation
from atrous.layers.pad import pad_to_grid
from atrous.layers.resize import resize
from atrous.models.base import (
    SegmentationModel,
    build_backbone,
    register_model,
    register_on_any_backbone,
    scaled,
)
from atrous.models.deeplab_v1 import PAPER as DEEPLAB_V1
from atrous.models.deeplab_v1 import CaffeDeepLab, init_gaussian
from atrous.registry import Paper

PAPER = Paper(
    title="DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully Connected "
    "CRFs",
    authors="Chen, Papandreou, Kokkinos, Murphy, Yuille",
    year=2016,
    arxiv="1606.00915",
)

ASPP_L = (6, 12, 18, 24)
ASPP_S = (2, 4, 8, 12)
LARGE_FOV = (12,)


class SumASPP(nn.Module):
    """Atrous spatial pyramid pooling of DeepLab v2: the sum of the scores of parallel classifiers.

    `branch` builds the classifier for an atrous rate, its dilated convolution first: a 3x3 convolution (ResNet), or
    fc6, fc7 and fc8 (VGG-16). `rates` apply at output stride 8; `set_output_stride` scales them.

    Shape: (N, in_channels, h, w) -> (N, num_classes, h, w).
    Source: DeepLab v2 section 3.2 and figure 7.
    Raises: `AtrousError` for an empty list of rates, or rates below 1.
    """

    NOMINAL_OUTPUT_STRIDE = 8

    def __init__(self, branch: Callable[[int], nn.Module], rates: Sequence[int]) -> None:
        super().__init__()
        if not rates or any(rate < 1 for rate in rates):
            raise AtrousError(f"atrous_rates {tuple(rates)}: give at least one rate, each 1 or more.")
        self.rates = tuple(rates)
        self.branches = nn.ModuleList(branch(rate) for rate in rates)

    def supports_output_stride(self, output_stride: int) -> bool:
        """Check that all scaled rates are integers."""
        return not any(rate * self.NOMINAL_OUTPUT_STRIDE % output_stride for rate in self.rates)

    def dilated_convs(self) -> list[nn.Conv2d]:
        """List the dilated convolution of each branch, its first."""
        return [next(layer for layer in branch.modules() if isinstance(layer, nn.Conv2d)) for branch in self.branches]

    def set_output_stride(self, output_stride: int) -> None:
        """Scale the atrous rates to an output stride, so that each branch keeps its field of view in the image."""
        for rate, conv in zip(self.rates, self.dilated_convs(), strict=True):
            set_dilation(conv, rate * self.NOMINAL_OUTPUT_STRIDE // output_stride)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.branches
        scores = first(x)
        for branch in others:
            scores = scores + branch(x)
        return scores


class DeepLabV2(CaffeDeepLab):
    """DeepLab v2: a backbone and ASPP of 3x3 convolutions or, with `hidden` channels, of fc6, fc7 and fc8.

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W).
    Raises: `AtrousError` for an output stride or rates the network does not support.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int = 21,
        atrous_rates: Sequence[int] = ASPP_L,
        hidden: int | None = None,
        output_stride: int = 8,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        channels = backbone.channels[-1]

        def branch(rate: int) -> nn.Module:
            if hidden is None:
                return nn.Conv2d(channels, num_classes, 3, padding=rate, dilation=rate)
            return FullyConnected(channels, hidden, kernel_size=3, dilation=rate, num_classes=num_classes)

        self.aspp = SumASPP(branch, atrous_rates)
        init_convs(self.aspp, mode="fan_in")  # VGG-16 has no batch normalization
        for classifier in self.head():
            init_gaussian(classifier, 0.01)
        self.set_output_stride(output_stride)

    def possible_output_strides(self) -> list[int]:
        return [stride for stride in super().possible_output_strides() if self.aspp.supports_output_stride(stride)]

    def set_output_stride(self, output_stride: int) -> SegmentationModel:
        super().set_output_stride(output_stride)
        self.aspp.set_output_stride(output_stride)
        return self

    def field_of_view_convs(self) -> list[nn.Conv2d]:
        return self.aspp.dilated_convs()

    def head(self) -> list[nn.Module]:
        """List the classifiers only: fc6 and fc7 are pretrained with VGG-16."""
        return [branch[-1] if isinstance(branch, FullyConnected) else branch for branch in self.aspp.branches]

    def scores(self, image: Tensor) -> Tensor:
        return self.aspp(self.backbone(pad_to_grid(image, self.output_stride))[-1])

    def load_backbone(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load classifier weights: into the backbone and, for VGG-16, the decimated fc6 and fc7 into every branch."""
        super().load_backbone(state_dict)
        fully_connected = {
            name.removeprefix("classifier."): value
            for name, value in state_dict.items()
            if name.startswith(("classifier.0.", "classifier.3."))
        }
        for branch in self.aspp.branches:
            branch.load_state_dict(fully_connected, strict=False)


class DeepLabV2MSC(DeepLabV2):
    """DeepLab v2 on the image at 1, 3/4 and 1/2 of its size with shared weights; the maximum of the scores is taken.

    In training each scale has its own loss too, at the same weight: four losses for three scales. There are no further
    parameters: the state dict is that of `DeepLabV2`, and a network trained at one scale loads.

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W); `scores` have the size they have at the full scale.
    Source: DeepLab v2 section 4.1.2 (multi-scale inputs, max fusion); "MSC" in tables 4 to 6.
    """

    def scores(self, image: Tensor) -> Tensor:
        return reduce(torch.maximum, self._at_scales(image))

    def training_outputs(self, image: Tensor) -> list[tuple[Tensor, float]]:
        maps = self._at_scales(image)
        return [(self._to_size_of(image, scores), 1.0) for scores in (reduce(torch.maximum, maps), *maps)]

    def _at_scales(self, image: Tensor) -> list[Tensor]:
        """Compute the scores at each scale, resized to the size of those at the full scale."""
        image = pad_to_grid(image, 4 * self.output_stride)  # so that its quarters fit the stride too
        maps = [super().scores(image)]
        rows, columns = maps[0].shape[2:]
        for quarters in (3, 2):
            height, width = ((n - 1) * quarters // 4 + 1 for n in image.shape[2:])
            scores = super().scores(resize(image, (height, width), align_corners=True))
            maps.append(resize(scores, (rows, columns), align_corners=True))
        return maps


@register_model("deeplab_v2.vgg16", PAPER, options_of=DeepLabV2)
@register_model("deeplab_v2_msc.vgg16", PAPER, options_of=DeepLabV2, msc=True)
def deeplab_v2_vgg16(
    *,
    msc: bool = False,
    width: float = 1.0,
    in_channels: int = 3,
    backbone_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> DeepLabV2:
    """Build DeepLab v2 on VGG-16; `width` multiplies all numbers of channels."""
    geometry = {"pool_kernels": (3,) * 5, "dilate_pools": False}
    backbone = build_backbone(
        "vgg16", width=width, in_channels=in_channels, backbone_options=backbone_options, **geometry
    )
    return (DeepLabV2MSC if msc else DeepLabV2)(backbone, **{"hidden": scaled(1024, width), **options})


@register_model("deeplab_v2.resnet101", PAPER, options_of=DeepLabV2)
@register_model("deeplab_v2_msc.resnet101", PAPER, options_of=DeepLabV2, msc=True)
def deeplab_v2_resnet101(
    *,
    msc: bool = False,
    width: float = 1.0,
    in_channels: int = 3,
    backbone_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> DeepLabV2:
    """Build DeepLab v2 on ResNet-101; `width` multiplies its numbers of channels."""
    backbone = build_backbone(
        "resnet101_caffe", width=width, in_channels=in_channels, backbone_options=backbone_options
    )
    return (DeepLabV2MSC if msc else DeepLabV2)(backbone, **options)


@register_on_any_backbone("deeplab_v2", PAPER, options_of=DeepLabV2)
@register_on_any_backbone("deeplab_v2_msc", PAPER, options_of=DeepLabV2, msc=True)
def deeplab_v2_on_backbone(
    backbone: str,
    *,
    msc: bool = False,
    width: float = 1.0,
    in_channels: int = 3,
    backbone_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> DeepLabV2:
    """Build DeepLab v2 on a backbone that is not in the paper, with the classifiers of ResNet-101.

    `width` multiplies the backbone's numbers of channels.
    """
    built = build_backbone(backbone, width=width, in_channels=in_channels, backbone_options=backbone_options)
    return (DeepLabV2MSC if msc else DeepLabV2)(built, **options)


@register_on_any_backbone("deeplab_v1", DEEPLAB_V1, options_of=DeepLabV2)
def deeplab_v1_on_backbone(backbone: str, *, width: float = 1.0, **options: Any) -> DeepLabV2:
    """Build DeepLab v1 on a backbone other than VGG-16: fc6, fc7 and fc8 of LargeFOV, an ASPP of one branch.

    `width` multiplies all numbers of channels.
    """
    defaults = {"atrous_rates": LARGE_FOV, "hidden": scaled(1024, width)}
    return deeplab_v2_on_backbone(backbone, width=width, **{**defaults, **options})
