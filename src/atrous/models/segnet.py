"""SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation (Badrinarayanan, Kendall, Cipolla;
PAMI 2017), and Bayesian SegNet (Kendall, Badrinarayanan, Cipolla; BMVC 2017).

The decoder reverses the encoder's poolings one by one: max unpooling puts each value back at the position of the
maximum it came from, and convolutions fill in the zeros between. Only these pooling indices pass from the encoder to
the decoder, no features.

`segnet.vgg16` has the thirteen convolutions of VGG-16 and a decoder that mirrors them; `segnet.basic` has four 7x7
convolutions in the encoder and four in the decoder, no ReLU in the decoder, and the released network's local response
normalization of the image. The Bayesian variants have dropout around the bottleneck; `monte_carlo` keeps it active to
draw samples from the posterior.

Differences: none in the networks. After training, the released scripts recompute the statistics of batch normalization
and fold them into the weights; here `layers.norm.recalibrate_batch_norm` does the former, and export the latter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atrous.backbones import Backbone
from atrous.backbones.vgg import STAGES, VGG16
from atrous.errors import AtrousError
from atrous.layers.conv import ConvNormAct, init_convs
from atrous.layers.mode import evaluation_mode
from atrous.layers.norm import BatchNorm2d
from atrous.layers.pool import CeilMaxPool2d
from atrous.models.base import SegmentationModel, build_backbone, register_model, scaled
from atrous.registry import Paper

PAPER = Paper(
    title="SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation",
    authors="Badrinarayanan, Kendall, Cipolla",
    year=2015,
    arxiv="1511.00561",
)

BAYESIAN_PAPER = Paper(
    title="Bayesian SegNet: Model Uncertainty in Deep Convolutional Encoder-Decoder Architectures for Scene "
    "Understanding",
    authors="Kendall, Badrinarayanan, Cipolla",
    year=2015,
    arxiv="1511.02680",
)


class BasicEncoder(Backbone):
    """Encoder of SegNet-Basic: LRN, then four 7x7 convolutions, each with batch normalization, ReLU and max pooling.

    Shape: (N, in_channels, H, W) -> maps of 64 channels at strides 2, 4, 8, 16 (x width).
    Source: SegNet section 3.1; `segnet_basic_train.prototxt`.
    """

    native_strides = (2, 4, 8, 16)

    def __init__(self, *, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        self.channels = (scaled(64, width),) * 4
        inputs = (in_channels, *self.channels[:-1])
        self.norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)
        self.convs = nn.Sequential(
            *(ConvNormAct(n, out, 7, bias=True) for n, out in zip(inputs, self.channels, strict=True))
        )
        self.pool = CeilMaxPool2d(2)

    def stages(self) -> list[nn.Sequential]:
        first, *others = self.convs
        return [nn.Sequential(self.norm, first, self.pool), *(nn.Sequential(conv, self.pool) for conv in others)]

    def blocks(self) -> list[nn.Module]:
        return [layer for conv in self.convs for layer in (conv, self.pool)]

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages():
            x = stage(x)
            maps.append(x)
        return maps


def max_pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """Max-pool 2x2 windows in ceil mode and return the maxima and their indices.

    Shape: (N, C, H, W) -> two (N, C, ceil(H / 2), ceil(W / 2)); an index is row * W + column.
    """
    return F.max_pool2d(x, 2, stride=2, ceil_mode=True, return_indices=True)


def max_unpool(x: Tensor, indices: Tensor, size: tuple[int, int]) -> Tensor:
    """Place each value at the position of its maximum, with zeros elsewhere: the inverse of `max_pool`, for any size.

    Shape: two (N, C, h, w) -> (N, C, *size).
    Source: SegNet section 3.2 and figure 3.
    """
    plane = x.new_zeros(x.shape[0], x.shape[1], size[0] * size[1])
    return plane.scatter(2, indices.flatten(2), x.flatten(2)).view(x.shape[0], x.shape[1], *size)


class SegNet(SegmentationModel):
    """SegNet: an encoder, a decoder that mirrors it, and a classifier.

    `decoder` has one stage for each stage of the encoder, coarsest first. In encoder and decoder, the `bayesian` stages
    nearest to the bottleneck are followed by dropout.

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W), without resizing, for even and odd sizes.
    Raises: `AtrousError` for a number of `bayesian` stages that the encoder lacks.
    """

    backbone: VGG16 | BasicEncoder

    def __init__(
        self,
        backbone: VGG16 | BasicEncoder,
        decoder: Iterable[nn.Module],
        classifier: nn.Conv2d,
        *,
        bayesian: int = 0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        stages = len(backbone.channels)
        if not 0 <= bayesian <= stages:
            raise AtrousError(f"bayesian {bayesian}: choose 0 to {stages}, the number of stages of the encoder.")
        self.num_classes = classifier.out_channels
        self.backbone = backbone
        self.decoder = nn.ModuleList(decoder)
        self.classifier = classifier
        self.bayesian = bayesian
        self.dropout = nn.Dropout(dropout)
        init_convs(self, mode="fan_in")
        for layer in self.modules():
            if isinstance(layer, BatchNorm2d):
                nn.init.constant_(layer.bias, 0.001)

    def possible_output_strides(self) -> list[int]:
        return [self.backbone.native_strides[-1]]  # every pooling has a matching unpooling

    def whole_backbones(self) -> list[Backbone]:
        return []

    def scores(self, image: Tensor) -> Tensor:
        x, poolings = image, []
        stages = self.backbone.stages()
        has_dropout = [index >= len(stages) - self.bayesian for index in range(len(stages))]
        for stage, drop in zip(stages, has_dropout, strict=True):
            *convs, _ = stage
            for layer in convs:
                x = layer(x)
            size = (x.shape[2], x.shape[3])
            x, indices = max_pool(x)
            poolings.append((indices, size))
            x = self.dropout(x) if drop else x
        for mirrored, drop in zip(self.decoder, reversed(has_dropout), strict=True):
            x = mirrored(max_unpool(x, *poolings.pop()))
            x = self.dropout(x) if drop else x
        return self.classifier(x)

    def forward(self, image: Tensor) -> Tensor:
        return self.scores(image)

    @torch.no_grad()
    def monte_carlo(self, image: Tensor, samples: int = 50) -> tuple[Tensor, Tensor]:
        """Compute mean and variance of the class probabilities over Monte Carlo dropout samples.

        Dropout is active, everything else is in evaluation mode. The variance is the model's uncertainty of each class;
        its mean over the classes is the uncertainty of the pixel.

        Shape: (N, in_channels, H, W) -> two (N, num_classes, H, W).
        Source: Bayesian SegNet section 4; `test_bayesian_segnet.py` (the variance of the samples divides by n).
        Raises: `AtrousError` for a network without dropout or fewer than one sample.
        """
        if not self.bayesian:
            raise AtrousError(
                "This SegNet has no dropout, which Monte Carlo sampling needs: create a 'bayesian_segnet' instead."
            )
        if samples < 1:
            raise AtrousError(f"samples {samples}: Monte Carlo sampling needs 1 or more.")
        mean = squares = image.new_zeros(())
        with evaluation_mode(self):
            self.dropout.train()
            for count in range(1, samples + 1):
                sample = self(image).softmax(1)
                deviation = sample - mean
                mean = mean + deviation / count
                squares = squares + deviation * (sample - mean)
        return mean, squares / samples


@register_model("segnet.vgg16", PAPER)
@register_model("bayesian_segnet.vgg16", BAYESIAN_PAPER, bayesian=3)
def segnet(
    *,
    num_classes: int = 21,
    bayesian: int = 0,
    dropout: float = 0.5,
    width: float = 1.0,
    in_channels: int = 3,
    backbone_options: Mapping[str, Any] | None = None,
) -> SegNet:
    """Build SegNet on VGG-16 with batch normalization; dropout follows `bayesian` of its five poolings.

    Raises: `AtrousError` for options of the backbone that the decoder could not reverse.
    """
    for key in ("pool_kernels", "dilate_pools", "padding", "fc", "average_pool"):
        if key in (backbone_options or {}):
            raise AtrousError(
                f"backbone_options: {key} is fixed in SegNet, whose decoder reverses padded convolutions and poolings "
                "of 2x2: leave it out."
            )
    backbone = build_backbone("vgg16_bn", width=width, in_channels=in_channels, backbone_options=backbone_options)
    assert isinstance(backbone, VGG16)
    decoder = []
    for stage, (_, count) in reversed(list(enumerate(STAGES))):
        own, finer = backbone.channels[stage], backbone.channels[max(stage - 1, 0)]
        outputs = [own] * (count - 1) + [finer] * (stage > 0)  # the last of the finest stage is the classifier
        decoder.append(nn.Sequential(*(ConvNormAct(own, out, 3, bias=True) for out in outputs)))
    classifier = nn.Conv2d(backbone.channels[0], num_classes, 3, padding=1)
    return SegNet(backbone, decoder, classifier, bayesian=bayesian, dropout=dropout)


@register_model("segnet.basic", PAPER)
@register_model("bayesian_segnet.basic", BAYESIAN_PAPER, bayesian=2)
def segnet_basic(
    *,
    num_classes: int = 21,
    bayesian: int = 0,
    dropout: float = 0.5,
    width: float = 1.0,
    in_channels: int = 3,
) -> SegNet:
    """Build SegNet-Basic; dropout follows `bayesian` of its four poolings."""
    encoder = BasicEncoder(width=width, in_channels=in_channels)
    decoder = [ConvNormAct(n, n, 7, bias=True, act=None) for n in reversed(encoder.channels)]
    classifier = nn.Conv2d(encoder.channels[0], num_classes, 1)
    return SegNet(encoder, decoder, classifier, bayesian=bayesian, dropout=dropout)
