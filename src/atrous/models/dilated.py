"""Dilated: Multi-Scale Context Aggregation by Dilated Convolutions (Yu, Koltun; ICLR 2016).

A front-end, VGG-16 without its last two poolings and with dilated convolutions as its fully connected layers, computes
class scores. A context module refines the scores by convolutions whose dilations grow exponentially: its receptive
field is 67x67 scores, without loss of resolution. The module is initialized to the identity.

As released: the image is padded by reflection, by 186 pixels on each side, and no convolution of the front-end is
padded. The networks are named by the number of layers of their context module: `dilation8` (VOC; the large module of
table 1, which pads its input once, by 33), `dilation7` (KITTI, without dilation 16), `dilation10` (Cityscapes, with
dilations 32 and 64 and a transposed convolution at the end). CamVid's network is `dilation8` with `context="basic"` and
11 classes.

The released training code takes crops that contain the margin of 186 pixels, and computes the loss on one label per
score: 16x16 labels for a crop of 500 pixels. With `pad_in_training=False` and the transform `margin_crop` so does this
code (recipe `dilated_voc`); by default `training_outputs` has the size of the image, like that of all other networks.

Differences: the released script interpolates probabilities; here scores are interpolated, as in all other networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atrous.backbones import Backbone
from atrous.errors import AtrousError
from atrous.layers.dilate import set_dilation
from atrous.layers.pad import crop, mirror_pad
from atrous.layers.resize import BilinearDeconv, resize
from atrous.models.base import SegmentationModel, build_backbone, register_model
from atrous.registry import Paper

PAPER = Paper(
    title="Multi-Scale Context Aggregation by Dilated Convolutions", authors="Yu, Koltun", year=2015, arxiv="1511.07122"
)

MARGIN = 186
"""Pixels of the image that the unpadded convolutions of the front-end remove on each side."""

NOMINAL_OUTPUT_STRIDE = 8
"""The output stride at which the dilations apply as given."""

LARGE_MULTIPLES = (2, 2, 4, 8, 16, 32, 32)
"""Channels of the large context module in multiples of the number of classes: table 1."""

Context = Literal["basic", "large"]


class ContextModule(nn.Module):
    """Context module: dilated 3x3 convolutions with ReLU, then a 1x1 convolution, initialized to the identity.

    `multiples` are the channels of the 3x3 convolutions in multiples of the number of classes. The padding keeps the
    size: of every layer by itself or, with `pad_once`, of all layers by padding the input.

    Shape: (N, C, h, w) -> (N, C, h, w).
    Source: section 3, table 1 and equations 4 and 5.
    """

    def __init__(
        self, num_classes: int, dilations: Sequence[int], multiples: Sequence[int], *, pad_once: bool = False
    ) -> None:
        super().__init__()
        self.dilations = tuple(dilations)
        self.pad_once = pad_once
        self.convs = nn.ModuleList()
        channels = num_classes
        for dilation, multiple in zip(dilations, multiples, strict=True):
            padding = 0 if pad_once else dilation
            self.convs.append(nn.Conv2d(channels, multiple * num_classes, 3, padding=padding, dilation=dilation))
            channels = multiple * num_classes
        self.final = nn.Conv2d(channels, num_classes, 1)
        self.init_identity()

    def init_identity(self, noise: float = 0.01) -> None:
        """Initialize the weights to the identity of each class, plus noise of standard deviation `noise` x weight.

        In a layer with n output channels per class, each of them gets 1 / n of the sum of the inputs of its class.
        """
        with torch.no_grad():
            for conv in (*self._convs(), self.final):
                outputs, inputs, size, _ = conv.weight.shape
                share = self.final.out_channels / outputs
                class_of_output, class_of_input = (
                    torch.arange(n) * self.final.out_channels // n for n in (outputs, inputs)
                )
                nn.init.normal_(conv.weight, std=noise * share)
                conv.weight[:, :, size // 2, size // 2] += share * (class_of_output[:, None] == class_of_input)
                conv.bias.zero_()  # type: ignore[union-attr]

    def set_output_stride(self, output_stride: int) -> None:
        """Scale the dilations to an output stride, so that the module keeps its field of view in the image."""
        for conv, dilation in zip(self._convs(), self.dilations, strict=True):
            set_dilation(conv, dilation * NOMINAL_OUTPUT_STRIDE // output_stride)

    def forward(self, x: Tensor) -> Tensor:
        if self.pad_once:
            x = F.pad(x, [sum(conv.dilation[0] for conv in self._convs())] * 4)
        for conv in self.convs:
            x = conv(x).relu()
        return self.final(x)

    def _convs(self) -> list[nn.Conv2d]:
        return list(self.convs)  # type: ignore[arg-type]


class Dilated(SegmentationModel):
    """The front-end and, with `context`, the context module. The backbone is an unpadded VGG-16 with fc6 and fc7.

    `dilations` are those of the context module's 3x3 convolutions. The scores are upsampled bilinearly, with samples at
    every eighth pixel as in the released scripts, or by a fixed transposed convolution (`deconvolution=True`). With
    `pad_in_training=False`, `training_outputs` takes images that contain the margin of 186 pixels on each side, and
    returns one score for every eighth pixel of the rest (every pixel with `deconvolution`).

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W); `scores` have ceil(H / 8) rows, `training_outputs` without
    padding (H - 372) / 8.
    Raises: `AtrousError` for a "large" `context` whose dilations are not seven.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int = 21,
        context: Context | None = None,
        dilations: Sequence[int] = (1, 1, 2, 4, 8, 16, 1),
        deconvolution: bool = False,
        pad_in_training: bool = True,
        output_stride: int = NOMINAL_OUTPUT_STRIDE,
    ) -> None:
        super().__init__()
        if context == "large" and len(dilations) != len(LARGE_MULTIPLES):
            raise AtrousError(f"dilations {tuple(dilations)}: the large context module needs {len(LARGE_MULTIPLES)}.")
        self.num_classes = num_classes
        self.pad_in_training = pad_in_training
        self.backbone = backbone
        self.score = nn.Conv2d(backbone.channels[-1], num_classes, 1)
        nn.init.normal_(self.score.weight, std=0.001)
        nn.init.zeros_(self.score.bias)  # type: ignore[arg-type]
        self.context: ContextModule | None = None
        if context is not None:
            multiples = LARGE_MULTIPLES if context == "large" else (1,) * len(dilations)
            self.context = ContextModule(num_classes, dilations, multiples, pad_once=context == "large")
        self.upsample: BilinearDeconv | None = None
        if deconvolution:
            stride = NOMINAL_OUTPUT_STRIDE
            self.upsample = BilinearDeconv(num_classes, stride, padding=stride // 2, depthwise=True)
        self.set_output_stride(output_stride)

    def possible_output_strides(self) -> list[int]:
        if self.upsample is not None:
            return [NOMINAL_OUTPUT_STRIDE]
        possible = super().possible_output_strides()
        return possible if self.context is None else [stride for stride in possible if stride <= NOMINAL_OUTPUT_STRIDE]

    def set_output_stride(self, output_stride: int) -> SegmentationModel:
        super().set_output_stride(output_stride)
        if self.upsample is not None:
            self.backbone.set_output_stride(output_stride)
        if self.context is not None:
            self.context.set_output_stride(output_stride)
        return self

    def scores(self, image: Tensor) -> Tensor:
        grid = max(self.output_stride, NOMINAL_OUTPUT_STRIDE)
        height, width = image.shape[-2:]
        after = (MARGIN + -height % grid, MARGIN + -width % grid)  # to sides that every pooling divides evenly
        return self._scores_inside_margin(mirror_pad(image, (MARGIN, MARGIN), after))

    def training_outputs(self, image: Tensor) -> list[tuple[Tensor, float]]:
        """Compute the outputs of the training loss; without padding they have (H - 372) / 8 rows.

        Raises: `AtrousError` for an image without padding that has no pixels inside of its margin.
        """
        if self.pad_in_training:
            return super().training_outputs(image)
        height, width = image.shape[-2:]
        if min(height, width) < 2 * MARGIN + self.output_stride:
            raise AtrousError(
                f"A training image of {width} x {height} pixels has none inside its margin of {MARGIN} pixels: use the "
                f"transform margin_crop with sides of {2 * MARGIN} + 8 k pixels, or pad_in_training=true."
            )
        scores = self._scores_inside_margin(image)
        return [(scores if self.upsample is None else self.upsample(scores), 1.0)]

    def _scores_inside_margin(self, image: Tensor) -> Tensor:
        scores = self.score(self.backbone(image)[-1])
        return scores if self.context is None else self.context(scores)

    def _to_size_of(self, image: Tensor, scores: Tensor) -> Tensor:
        if self.upsample is not None:
            return crop(self.upsample(scores), image.shape[2:], top=0, left=0)
        height, width = (n * self.output_stride + 1 for n in scores.shape[2:])
        beyond = F.pad(scores, (0, 1, 0, 1), mode="replicate")  # gives the last score a neighbor to interpolate with
        return crop(resize(beyond, (height, width), align_corners=True), image.shape[2:], top=0, left=0)


@register_model("dilated_frontend.vgg16", PAPER, options_of=Dilated)
@register_model("dilation7.vgg16", PAPER, options_of=Dilated, context="basic", dilations=(1, 1, 2, 4, 8, 1))
@register_model("dilation8.vgg16", PAPER, options_of=Dilated, context="large")
@register_model(
    "dilation10.vgg16",
    PAPER,
    options_of=Dilated,
    context="basic",
    dilations=(1, 1, 2, 4, 8, 16, 32, 64, 1),
    deconvolution=True,
)
def dilated(
    *,
    width: float = 1.0,
    in_channels: int = 3,
    backbone_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Dilated:
    """Build Dilated on VGG-16; `width` multiplies the backbone's numbers of channels."""
    frontend = {"padding": 0, "pool_kernels": (2, 2, 2, 1, 1), "fc": {"padding": 0}}
    backbone = build_backbone(
        "vgg16", width=width, in_channels=in_channels, backbone_options=backbone_options, **frontend
    )
    return Dilated(backbone, **options)
