"""PSPNet: Pyramid Scene Parsing Network (Zhao, Shi, Qi, Wang, Jia; CVPR 2017).

A dilated ResNet at output stride 8 and pyramid pooling: the feature map is concatenated with its averages over grids of
1, 4, 9 and 36 bins, from the whole image to its regions (figure 3). An auxiliary classifier on the fourth stage, with
weight 0.4, supports training (section 3.3).

Differences between the paper and the released networks, each available as an argument:

- The backbone has the three 3x3 convolutions of the released networks instead of the 7x7 convolution (`stem`).
- The released Caffe networks dilate every 3x3 convolution of a stage, its first included; weights from them and from
  `semseg` need `whole_stage=True`. Without it, the features are exactly those of the strided ResNet, sampled densely.
- The released Caffe network on ResNet-50 has the stride of a stage on its first 1x1 convolution
  (`backbone_options={"stride_on": "1x1"}`); the one on ResNet-101 and `semseg` have it on the 3x3, as here by default.
- The released networks pool over windows of fixed size, computed from their crop: `pooling_crop=(473, 473)` (VOC,
  ADE20K) or `(713, 713)` (Cityscapes). Without it the bins adapt to the size of the map, which is equivalent for inputs
  of the size of the crop.

Networks of other libraries: `stem="plain"` and `align_corners=False` (mmsegmentation), `normalize_single_bin=False`,
`kernel_sizes=(1, 3)` and a backbone of two stages (segmentation_models_pytorch); see docs/import_state_dicts.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from atrous.backbones import Backbone
from atrous.backbones.resnet import Stem
from atrous.errors import AtrousError
from atrous.layers.conv import ConvNormAct, init_convs
from atrous.layers.heads import FCNHead, init_head
from atrous.layers.norm import BatchNorm2d
from atrous.layers.pool import Pool, adaptive_pool2d, window_pool2d
from atrous.layers.resize import resize
from atrous.models.base import (
    ModelWithAuxiliaryHead,
    SegmentationModel,
    build_backbone,
    register_model,
    register_on_any_backbone,
    scaled,
)
from atrous.registry import Paper

PAPER = Paper(
    title="Pyramid Scene Parsing Network",
    authors="Zhao, Shi, Qi, Wang, Jia",
    year=2017,
    arxiv="1612.01105",
)


class PyramidPooling(nn.Module):
    """Pyramid pooling: concatenate a feature map with its averages (or maxima) over grids of `bins` x `bins`.

    A 1x1 convolution reduces each grid to 1 / len(bins) of the channels (with `reduce=False` there is none), and the
    result is resized to the map. The bins adapt to the size of the map (adaptive pooling). With a `crop` (height, width
    in image pixels) the pooling windows have the fixed size of the released networks instead: for 473 x 473 at stride 8
    they are 60, 30, 20 and 10 pixels of the map wide, whatever the size of the image. With `normalize_single_bin=False`
    the convolution of a grid of one bin has a bias instead of batch normalization.

    Shape: (N, in_channels, h, w) -> (N, out_channels, h, w); `out_channels` is an attribute.
    Source: PSPNet section 3.1 and figure 3; the ablation of table 1.
    Raises: `AtrousError` for empty `bins`, or bins below 1.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        bins: Sequence[int] = (1, 2, 3, 6),
        pool: Pool = "average",
        reduce: bool = True,
        crop: tuple[int, int] | None = None,
        normalize_single_bin: bool = True,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        if not bins or any(count < 1 for count in bins):
            raise AtrousError(f"bins {tuple(bins)}: give at least one number of bins, each 1 or more.")
        self.bins = tuple(bins)
        self.pool = pool
        self.crop = crop
        self.crop_map_size: tuple[int, int] | None = None
        self.align_corners = align_corners
        channels = max(1, in_channels // len(self.bins)) if reduce else in_channels
        self.convs = nn.ModuleList(
            ConvNormAct(in_channels, channels, norm=BatchNorm2d if count > 1 or normalize_single_bin else None)
            if reduce
            else nn.Identity()
            for count in self.bins
        )
        self.out_channels = in_channels + channels * len(self.bins)

    def set_output_stride(self, output_stride: int) -> None:
        """Adapt fixed windows to an output stride, so that they keep their size in the image."""
        if self.crop is not None:
            height, width = ((side - 1) // output_stride + 1 for side in self.crop)
            self.crop_map_size = height, width

    def windows(self) -> list[tuple[int, int]]:
        """List height and width of each fixed window in pixels of the map; empty without a `crop`."""
        if self.crop_map_size is None:
            return []
        height, width = self.crop_map_size
        return [(-(-height // count), -(-width // count)) for count in self.bins]

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self.crop_map_size is None:
            pooled = [adaptive_pool2d(x, count, self.pool) for count in self.bins]
        else:
            pooled = [window_pool2d(x, window, self.pool, stride=None) for window in self.windows()]
        maps = [
            resize(conv(grid), (height, width), align_corners=self.align_corners)
            for conv, grid in zip(self.convs, pooled, strict=True)
        ]
        return torch.cat([x, *maps], 1)


class PSPNet(ModelWithAuxiliaryHead):
    """PSPNet: backbone, pyramid pooling, a 3x3 convolution and a 1x1 classifier.

    `bins`, `pool` and `reduce` are the ablations of table 1, `auxiliary_weight` that of table 2. `kernel_sizes` are
    those of the convolution after the pyramid and of the classifier, `auxiliary_channels` the number of channels of the
    auxiliary head, by default a quarter of its input's.

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W); `scores` have the output stride.
    Raises: `AtrousError` for an unsupported output stride or invalid `bins`.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int = 21,
        output_stride: int = 8,
        bins: Sequence[int] = (1, 2, 3, 6),
        pool: Pool = "average",
        reduce: bool = True,
        pooling_crop: tuple[int, int] | None = None,
        normalize_single_bin: bool = True,
        channels: int = 512,
        kernel_sizes: tuple[int, int] = (3, 1),
        dropout: float = 0.1,
        auxiliary: bool = True,
        auxiliary_weight: float = 0.4,
        auxiliary_channels: int | None = None,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.align_corners = align_corners
        self.auxiliary_weight = auxiliary_weight
        self.backbone = backbone
        features = backbone.channels[-1]
        self.pyramid = PyramidPooling(
            features,
            bins=bins,
            pool=pool,
            reduce=reduce,
            crop=pooling_crop,
            normalize_single_bin=normalize_single_bin,
            align_corners=align_corners,
        )
        first, last = kernel_sizes
        self.classifier = nn.Sequential(
            ConvNormAct(self.pyramid.out_channels, channels, first),
            nn.Dropout(dropout),
            nn.Conv2d(channels, num_classes, last, padding=last // 2),
        )
        self.auxiliary = (
            FCNHead(backbone.channels[-2], num_classes, dropout=dropout, channels=auxiliary_channels)
            if auxiliary
            else None
        )
        init_convs(self.pyramid)
        init_head(self.classifier)
        self.set_output_stride(output_stride)

    def set_output_stride(self, output_stride: int) -> SegmentationModel:
        super().set_output_stride(output_stride)
        self.pyramid.set_output_stride(output_stride)
        return self

    def _classify(self, maps: list[Tensor]) -> Tensor:
        return self.classifier(self.pyramid(maps[-1]))


@register_model("pspnet.resnet50", PAPER, options_of=PSPNet, backbone="resnet50")
@register_model("pspnet.resnet101", PAPER, options_of=PSPNet, backbone="resnet101")
@register_model("pspnet.resnet152", PAPER, options_of=PSPNet, backbone="resnet152")
def pspnet(
    backbone: str,
    *,
    stem: Stem = "deep",
    whole_stage: bool = False,
    width: float = 1.0,
    in_channels: int = 3,
    backbone_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> PSPNet:
    """Build PSPNet on a ResNet; `width` multiplies all numbers of channels."""
    resnet = build_backbone(
        backbone,
        width=width,
        in_channels=in_channels,
        backbone_options=backbone_options,
        stem=stem,
        whole_stage=whole_stage,
    )
    return PSPNet(resnet, **{"channels": scaled(512, width), **options})


@register_model("pspnet.mobilenet_v2", PAPER, options_of=PSPNet, backbone="mobilenet_v2")
@register_on_any_backbone("pspnet", PAPER, options_of=PSPNet)
def pspnet_on_backbone(
    backbone: str,
    *,
    width: float = 1.0,
    in_channels: int = 3,
    backbone_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> PSPNet:
    """Build PSPNet on a backbone that is not in the paper; `width` multiplies all numbers of channels."""
    built = build_backbone(backbone, width=width, in_channels=in_channels, backbone_options=backbone_options)
    return PSPNet(built, **{"channels": scaled(512, width), **options})
