"""DeepLab v1: Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs (Chen, Papandreou,
Kokkinos, Murphy, Yuille; ICLR 2015).

VGG-16 whose last two strides are replaced by dilation of the following filters (the "hole" algorithm), so that scores
are computed at every eighth pixel. The field of view of fc6 is a free choice: table 2 compares kernel sizes and rates,
and "LargeFOV" has the same field of view as the best of them with a sixth of its parameters. The CRF that refines the
result is in `atrous.crf`, because it is not part of the network.

As released, and by default: Caffe's pooling, 3x3 with stride 2 and padding 1 in LargeFOV and with branches (MSc),
otherwise 2x2, but 3x3 in pool5; pool4 and pool5 keep the size of their input and are not dilated, because Caffe has no
dilated pooling.
`backbone_options={"dilate_pools": True}` gives exactly the features of the strided network.

Differences: images are padded with zeros (the mean) to 8 k + 1 pixels per side; the crops of 321 pixels for training
and 513 for testing need no padding. The released 2x2 variants pad pool1 to pool3 at the beginning and pool4 not at all,
compute one score fewer per axis and crop the labels to match; here pool4 alone is padded at the beginning, which
centers the scores as well.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from atrous.backbones import Backbone
from atrous.layers.pad import crop, pad_to_grid
from atrous.layers.resize import resize
from atrous.models.base import SegmentationModel, build_backbone, register_model, scaled
from atrous.registry import Paper

PAPER = Paper(
    title="Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs",
    authors="Chen, Papandreou, Kokkinos, Murphy, Yuille",
    year=2014,
    arxiv="1412.7062",
)

FieldOfView = Literal["large", "7x7", "4x4", "small"]

FIELDS_OF_VIEW: dict[str, dict[str, Any]] = {
    "large": {
        "fc": {"kernel_size": 3, "dilation": 3, "channels": 1024},
        "pool_kernels": (3,) * 5,
        "average_pool": True,
    },
    "7x7": {"fc": {"kernel_size": 7, "dilation": 1}, "pool_kernels": (2, 2, 2, 2, 3)},
    "4x4": {"fc": {"kernel_size": 4, "dilation": 2}, "pool_kernels": (2, 2, 2, 2, 3)},
    "small": {"fc": {"kernel_size": 4, "dilation": 1}, "pool_kernels": (2, 2, 2, 2, 3)},
}
"""Options of VGG-16 for the rows of table 2: DeepLab-CRF-LargeFOV, -7x7, -4x4 and DeepLab-CRF, with fields of view of
224, 224, 224 and 128 pixels. Dilations hold at output stride 32: a quarter of the paper's rates at 8."""


def init_gaussian(conv: nn.Module, std: float) -> None:
    """Initialize a convolution with normal weights of standard deviation `std` and zero biases."""
    for name, parameter in conv.named_parameters():
        nn.init.normal_(parameter, std=std if name == "weight" else 0.0)


class CaffeDeepLab(SegmentationModel):
    """Base class of DeepLab v1 and v2, which upsample with aligned corners from an image padded to the output stride.

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W); `scores` have ceil((H - 1) / output_stride) + 1 rows.
    """

    align_corners = True

    @abstractmethod
    def field_of_view_convs(self) -> list[nn.Conv2d]:
        """List the convolutions whose kernel size and rate give the classifier its field of view."""

    def fields_of_view(self) -> dict[str, int]:
        """Compute the fields of view of the dilated classifiers in image pixels, by the path of their convolution.

        The taps of the kernel are `dilation` times the output stride apart, and each covers a cell of the stride that
        VGG-16 was built with, 32 pixels: 2 * 12 * 8 + 32 = 224 for a kernel of 3x3 at rate 12.

        Source: DeepLab v1 table 2.
        """
        convs, cell = {id(conv) for conv in self.field_of_view_convs()}, self.backbone.native_strides[-1]
        return {
            path: (conv.kernel_size[0] - 1) * conv.dilation[0] * self.output_stride + cell
            for path, conv in self.named_modules()
            if isinstance(conv, nn.Conv2d) and id(conv) in convs
        }

    def _to_size_of(self, image: Tensor, scores: Tensor) -> Tensor:
        height, width = ((n - 1) * self.output_stride + 1 for n in scores.shape[2:])
        return crop(resize(scores, (height, width), align_corners=True), image.shape[2:], top=0, left=0)


HIDDEN_STDS = (0.001, 0.001, 0.001, 0.001, 0.005)
"""Initial standard deviations of the 1x1 convolutions of 128 channels on the image and pool1 to pool4, as released."""


class MultiScaleBranch(nn.Sequential):
    """Classifier on finer features: 3x3 and 1x1 convolutions of 128 channels with dropout, then a 1x1 score layer.

    `std` is the standard deviation of the weights of the 1x1 convolution of 128 channels.

    Shape: (N, in_channels, h, w) -> (N, num_classes, ceil(h / stride), ceil(w / stride)).
    Source: section 4.3 (MSc); initialization: train.prototxt of DeepLab-MSc as released, in which pool3's last layer
    has none and starts at zero; here it starts like the others.
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int, *, std: float = 0.001) -> None:
        first, second = nn.Conv2d(in_channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 1)
        last = nn.Conv2d(channels, num_classes, 1)
        super().__init__(first, nn.ReLU(), nn.Dropout(), second, nn.ReLU(), nn.Dropout(), last)
        for conv, deviation in ((first, 0.001), (second, std), (last, 0.01)):
            init_gaussian(conv, deviation)

    def forward(self, x: Tensor, stride: int = 1) -> Tensor:
        first, *others = self
        assert isinstance(first, nn.Conv2d)
        x = F.conv2d(x, first.weight, first.bias, stride=stride, padding=1)
        for layer in others:
            x = layer(x)
        return x


class DeepLabV1(CaffeDeepLab):
    """DeepLab v1: VGG-16 with fc6 and fc7, the classifier fc8 and, with `msc`, the branches of the multi-scale variant.

    The inputs of the branches are the image and the outputs of the first four poolings. Their scores are added to those
    of fc8: in training at the output stride; otherwise each branch keeps its resolution, and the sum is taken at the
    resolution of the image.

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W).
    Raises: `AtrousError` for an output stride the network does not support.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int = 21,
        in_channels: int = 3,
        msc: bool = False,
        branch_channels: int = 128,
        output_stride: int = 8,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.classifier = nn.Conv2d(backbone.channels[-1], num_classes, 1)
        init_gaussian(self.classifier, 0.01)
        inputs = (in_channels, *backbone.channels[:4]) if msc else ()
        self.branches = nn.ModuleList(
            MultiScaleBranch(n, branch_channels, num_classes, std=std)
            for n, std in zip(inputs, HIDDEN_STDS, strict=False)
        )
        self.set_output_stride(output_stride)

    def field_of_view_convs(self) -> list[nn.Conv2d]:
        """List fc6, if the backbone has it."""
        return [layer for layer in self.backbone.blocks()[-6:-5] if isinstance(layer, nn.Conv2d)]

    def scores(self, image: Tensor) -> Tensor:
        image = pad_to_grid(image, self.output_stride)
        maps = self.backbone(image)
        scores = self.classifier(maps[-1])
        for branch, x, stride in zip(self.branches, (image, *maps), (1, *self.backbone.strides), strict=False):
            scores = scores + branch(x, stride=self.output_stride // stride)
        return scores

    def forward(self, image: Tensor) -> Tensor:
        if self.training or not self.branches:
            return super().forward(image)
        padded = pad_to_grid(image, self.output_stride)
        maps = self.backbone(padded)
        height, width = padded.shape[2:]
        total = resize(self.classifier(maps[-1]), (height, width), align_corners=True)
        for branch, x in zip(self.branches, (padded, *maps), strict=False):
            total = total + resize(branch(x), (height, width), align_corners=True)
        return crop(total, image.shape[2:], top=0, left=0)


@register_model("deeplab_v1.vgg16", PAPER, options_of=DeepLabV1)
@register_model("deeplab_v1_msc.vgg16", PAPER, options_of=DeepLabV1, msc=True)
def deeplab_v1(
    *,
    fov: FieldOfView = "large",
    msc: bool = False,
    width: float = 1.0,
    in_channels: int = 3,
    backbone_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> DeepLabV1:
    """Build DeepLab v1 on VGG-16 with a field of view of table 2; `width` multiplies all numbers of channels."""
    geometry = {**FIELDS_OF_VIEW[fov], "dilate_pools": False}
    if msc:
        geometry["pool_kernels"] = (3,) * 5
    backbone = build_backbone(
        "vgg16", width=width, in_channels=in_channels, backbone_options=backbone_options, **geometry
    )
    return DeepLabV1(backbone, in_channels=in_channels, msc=msc, **{"branch_channels": scaled(128, width), **options})
