"""DeepLab v3: Rethinking Atrous Convolution for Semantic Image Segmentation (Chen, Papandreou, Schroff, Adam; 2017).

A ResNet whose last strides are replaced by dilation, with multi-grid rates in its last stage. The field of view is
enlarged in one of two ways: in parallel, by atrous spatial pyramid pooling with image-level features (`DeepLabV3`,
section 3.3), or in cascade, by copies of the last stage (`DeepLabV3Cascade`, section 3.2). There is no CRF.

Differences between the paper and the released networks, each available by an id or an argument:

- `deeplab_v3.mobilenet_v2` has the head of the MobileNetV2 paper (section 6.3): no atrous rates, only the 1x1 branch
  and image pooling. `atrous_rates=(6, 12, 18)` gives it the full pyramid.
- `*_beta` backbones are those of TensorFlow DeepLab, on which the paper's results were measured: three 3x3 convolutions
  as the stem, and the stride in the last unit of a stage. They alone have the paper's rates by default: with the
  multi-grid (1, 2, 4), the last stage has 2 * (1, 2, 4) = (2, 4, 8) at output stride 16 and (4, 8, 16) at 8.
- On the other ResNets, which have torchvision's layout, the first unit of a stage has the stride, so its 3x3
  convolution keeps the rate of the stage before: (1, 4, 8) at 16 and (2, 8, 16) at 8, and in the cascade block 4 has
  (1, 4, 2) where the paper has (2, 4, 2). Without a multi-grid this is the exact conversion of the strided network.
  `backbone_options={"whole_stage": True}` gives the published rates. Then a network trained at output stride
  16 is no longer converted exactly to 8: the first 3x3 convolution of the stage before (`layer3`) has rate 1 at 16, and
  the published 2 at 8.
- `dropout=0.1` before the classifier follows TensorFlow DeepLab; the paper mentions no dropout.
- The networks of other libraries differ in their heads: `refine="separable"` and `depthwise_norm=False`
  (segmentation_models_pytorch), `project_kernel_size=3` (mmsegmentation); see docs/import_state_dicts.md.
- `refine=True` adds the 3x3 convolution that torchvision has between ASPP and classifier. With `refine=True`,
  `auxiliary=True`, `multi_grid=(1, 1, 1)`, `dropout=0.5` and `output_stride=8` the network matches torchvision's
  released state dicts.
- `deeplab_v3.mobilenet_v3_large` is torchvision's network, which runs at output stride 16, with the arguments above but
  `output_stride=16`, and `atrous_rates=(12, 24, 36)`, `auxiliary_map=1`, `backbone_options={"layout": "torchvision"}`.
- Xception and EfficientNet are not in the paper. The paper of v3+, which added Xception, found no gain from multi-grid
  on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from atrous.backbones import Backbone
from atrous.backbones.resnet import ResNet
from atrous.errors import AtrousError
from atrous.layers.aspp import ASPP
from atrous.layers.conv import ConvNormAct, SeparableConv, init_classifier, init_convs
from atrous.layers.heads import FCNHead
from atrous.models.base import (
    ModelWithAuxiliaryHead,
    SegmentationModel,
    build_backbone,
    register_family,
    register_model,
    scaled,
)
from atrous.registry import Paper

PAPER = Paper(
    title="Rethinking Atrous Convolution for Semantic Image Segmentation",
    authors="Chen, Papandreou, Schroff, Adam",
    year=2017,
    arxiv="1706.05587",
)


def build_classifier(channels: int, num_classes: int) -> nn.Conv2d:
    """Build the 1x1 classifier, with TensorFlow DeepLab's initialization."""
    layer = nn.Conv2d(channels, num_classes, 1)
    init_classifier(layer)
    return layer


class DeepLabV3(ModelWithAuxiliaryHead):
    """DeepLab v3 with ASPP: backbone, ASPP and classifier.

    The multi-grid (1, 2, 4) is the best of table 5; it multiplies the rates of the backbone, which depend on its layout
    (see the module). `atrous_rates` apply at output stride 16 and scale with the stride.
    `refine` adds a 3x3 convolution after ASPP, which may be "separable". `depthwise_norm=False` leaves out the batch
    normalization and ReLU between the two convolutions of separable ones. `project_kernel_size` is that of the
    convolution that ends ASPP.
    With `auxiliary`, an FCN head on the map `auxiliary_map` of the backbone, by default the one before the last, adds a
    training loss of weight `auxiliary_weight`.

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W).
    Raises: `AtrousError` for an output stride or rates the network does not support.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int = 21,
        output_stride: int = 16,
        multi_grid: Sequence[int] | None = (1, 2, 4),
        atrous_rates: Sequence[int] = (6, 12, 18),
        channels: int = 256,
        image_pooling: bool = True,
        pooling_crop: tuple[int, int] | None = None,
        separable: bool = False,
        depthwise_norm: bool = True,
        project_kernel_size: int = 1,
        dropout: float = 0.1,
        refine: bool | Literal["separable"] = False,
        auxiliary: bool = False,
        auxiliary_weight: float = 0.5,
        auxiliary_map: int = -2,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.align_corners = align_corners
        self.backbone = backbone
        if multi_grid is not None:
            backbone.set_multi_grid(multi_grid)
        self.aspp = ASPP(
            backbone.channels[-1],
            channels,
            rates=atrous_rates,
            image_pooling=image_pooling,
            pooling_crop=pooling_crop,
            separable=separable,
            depthwise_norm=depthwise_norm,
            project_kernel_size=project_kernel_size,
            dropout=dropout,
            align_corners=align_corners,
        )
        self.refine: nn.Module | None = None
        if refine:
            separate = refine == "separable"
            self.refine = (
                SeparableConv(channels, channels, depthwise_norm=depthwise_norm)
                if separate
                else ConvNormAct(channels, channels, 3)
            )
        self.auxiliary_map = auxiliary_map
        self.auxiliary = FCNHead(backbone.channels[auxiliary_map], num_classes) if auxiliary else None
        self.auxiliary_weight = auxiliary_weight
        for part in (self.aspp, self.refine):
            if part is not None:
                init_convs(part)
        self.classifier = build_classifier(channels, num_classes)
        self.set_output_stride(output_stride)

    def possible_output_strides(self) -> list[int]:
        return [stride for stride in super().possible_output_strides() if self.aspp.supports_output_stride(stride)]

    def set_output_stride(self, output_stride: int) -> SegmentationModel:
        if output_stride in self.backbone.possible_output_strides():
            self.aspp.check_output_stride(output_stride)  # its error names the rates
        super().set_output_stride(output_stride)
        self.aspp.set_output_stride(output_stride)
        return self

    def _encode(self, maps: list[Tensor]) -> Tensor:
        features = self.aspp(maps[-1])
        return features if self.refine is None else self.refine(features)

    def _classify(self, maps: list[Tensor]) -> Tensor:
        return self.classifier(self._encode(maps))


class DeepLabV3Cascade(SegmentationModel):
    """DeepLab v3 in cascade: a ResNet whose last stage is copied up to three times, and a 1x1 classifier.

    With `stages` of 4 to 7 it is "block4" to "block7" of tables 2 and 3. Without dilation every copy would halve the
    resolution again, down to stride 256. At output stride 16 the blocks have rates of 2, 4, 8 and 16, multiplied by
    `multi_grid` within each block; with torchvision's layout the first unit of each has half of that, unless the
    backbone has `whole_stage=True`. The multi-grid (1, 2, 1) is the best of table 3.

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W).
    Raises: `AtrousError` for an output stride the network does not support, or a multi-grid without 3 factors.
    """

    def __init__(
        self,
        backbone: ResNet,
        *,
        num_classes: int = 21,
        output_stride: int = 16,
        multi_grid: Sequence[int] = (1, 2, 1),
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        if len(backbone.channels) < 4:
            raise AtrousError(f"stages {len(backbone.channels)}: the cascade repeats the fourth stage; give 4 or more.")
        if len(multi_grid) != 3:
            raise AtrousError(f"multi_grid {tuple(multi_grid)}: 3 factors are needed, one for each unit of a block.")
        self.num_classes = num_classes
        self.align_corners = align_corners
        self.backbone = backbone
        copies = len(backbone.channels) - 3  # the last stage and its copies; the first three stages have no multi-grid
        backbone.set_multi_grid(tuple(multi_grid) * copies)
        self.classifier = build_classifier(backbone.channels[-1], num_classes)
        self.set_output_stride(output_stride)

    def scores(self, image: Tensor) -> Tensor:
        return self.classifier(self.backbone(image)[-1])


MOBILENET_DEFAULTS = {"atrous_rates": (), "multi_grid": None}
"""MobileNetV2 section 6.3, as released: neither atrous rates nor multi-grid."""

RESNETS = ("resnet50", "resnet101", "resnet152", "resnet50_beta", "resnet101_beta")
MOBILENETS = ("mobilenet_v2", "mobilenet_v2_x0.5")
XCEPTIONS = ("xception41", "xception65", "xception71")
EFFICIENTNETS = ("efficientnet_lite0",)
MOBILENETS_V3 = ("mobilenet_v3_large",)

DEFAULTS: dict[str, Mapping[str, Any]] = {
    **{name: {} for name in RESNETS},
    **dict.fromkeys(MOBILENETS, MOBILENET_DEFAULTS),
    **{name: {"multi_grid": None} for name in (*XCEPTIONS, *EFFICIENTNETS, *MOBILENETS_V3)},
}
"""Arguments whose defaults differ from the paper's, by backbone."""


@register_family("deeplab_v3", DEFAULTS, PAPER, options_of=DeepLabV3, other_backbones={"multi_grid": None})
def deeplab_v3(backbone: Backbone, width: float, **options: Any) -> DeepLabV3:
    """Build DeepLab v3 on a backbone; `width` multiplies all numbers of channels."""
    return DeepLabV3(backbone, **{"channels": scaled(256, width), **options})


@register_model("deeplab_v3_cascade.resnet50", PAPER, options_of=DeepLabV3Cascade, backbone="resnet50")
@register_model("deeplab_v3_cascade.resnet101", PAPER, options_of=DeepLabV3Cascade, backbone="resnet101")
@register_model("deeplab_v3_cascade.resnet50_beta", PAPER, options_of=DeepLabV3Cascade, backbone="resnet50_beta")
@register_model("deeplab_v3_cascade.resnet101_beta", PAPER, options_of=DeepLabV3Cascade, backbone="resnet101_beta")
def deeplab_v3_cascade(
    backbone: str,
    *,
    stages: int = 7,
    width: float = 1.0,
    in_channels: int = 3,
    backbone_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> DeepLabV3Cascade:
    """Build the cascade on a ResNet, up to "block" `stages`; `*_beta` ResNets have the paper's strides and rates."""
    resnet = build_backbone(
        backbone, width=width, in_channels=in_channels, backbone_options=backbone_options, stages=stages
    )
    assert isinstance(resnet, ResNet)
    return DeepLabV3Cascade(resnet, **options)
