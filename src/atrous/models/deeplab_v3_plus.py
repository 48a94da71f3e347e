"""DeepLab v3+: Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation (Chen, Zhu,
Papandreou, Schroff, Adam; ECCV 2018).

DeepLab v3 as the encoder, with a small decoder that refines object boundaries. The encoder's features, upsampled to
stride 4, are concatenated with the backbone's low-level features, which a 1x1 convolution reduces to 48 channels so
that they do not outweigh them; two 3x3 convolutions refine the result (tables 1 and 2). With `separable=True` the
atrous convolutions of ASPP and the convolutions of the decoder are depthwise separable ("SC" in table 5); this is the
default on Xception. `decoder_separable` sets the decoder alone, as a flag of TensorFlow's release does.

The ablations of the decoder are arguments: `low_level_channels` (table 1), `decoder_convs`, `decoder_channels`,
`decoder_kernel_size` and `conv3_tap` (table 2). With the tap there are two decoders in sequence, the first on the
features of Conv3 (stride 8), the second on those of Conv2, as in TensorFlow DeepLab with `decoder_output_stride=8,4`.

The low-level features are those of "Conv2 before striding" (section 4.1). On `*_beta` backbones they are, as in
TensorFlow's release, the result of the last convolution of the stage's second unit (`block1/unit_2/conv3`), before the
sum and the ReLU; `backbone_options={"maps_from": "output"}` takes the output of that unit instead. On other ResNets
they are the output of the stage. MobileNetV2 and EfficientNet-Lite are not in the paper; they too have separable
convolutions by default. The release takes MobileNetV2's features after a block's depthwise convolution:
`backbone_options={"maps_from": "depthwise"}`.

A decoder that is added to a trained DeepLab v3 (`weights` of a recipe) begins as the identity: the network computes the
scores of DeepLab v3 until it is trained, and does not have to learn the classes again.

On ResNets with torchvision's layout the multi-grid gives other rates than the paper's, unless whole stages are dilated:
see `models.deeplab_v3`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from atrous.backbones import Backbone
from atrous.errors import AtrousError
from atrous.layers.conv import ConvNormAct, SeparableConv, init_convs
from atrous.layers.norm import BatchNorm2d
from atrous.layers.resize import resize
from atrous.models.base import register_family, scaled
from atrous.models.deeplab_v3 import EFFICIENTNETS, MOBILENETS, RESNETS, XCEPTIONS, DeepLabV3, build_classifier
from atrous.registry import Paper

PAPER = Paper(
    title="Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation",
    authors="Chen, Zhu, Papandreou, Schroff, Adam",
    year=2018,
    arxiv="1802.02611",
)


class Decoder(nn.Module):
    """Decoder: reduce low-level features by a 1x1 convolution, concatenate them with the encoder's, refine the result.

    Shape: `low` (N, low_channels, H, W), `high` (N, high_channels, h, w) -> (N, channels, H, W).
    Source: figure 2; `low_level_channels` is table 1, `convs` and `kernel_size` table 2.
    """

    def __init__(
        self,
        low_channels: int,
        high_channels: int,
        channels: int,
        *,
        low_level_channels: int,
        convs: int,
        kernel_size: int = 3,
        separable: bool = False,
        depthwise_norm: bool = True,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        if convs < 1 or kernel_size not in (1, 3):
            raise AtrousError(
                f"decoder_convs {convs}, decoder_kernel_size {kernel_size}: the decoder needs 1 or more convolutions, "
                "of kernel size 1 or 3."
            )
        self.align_corners = align_corners
        self.reduce = ConvNormAct(low_channels, low_level_channels)
        inputs = [low_level_channels + high_channels] + [channels] * (convs - 1)
        self.refine = nn.Sequential(
            *(
                SeparableConv(n, channels, depthwise_norm=depthwise_norm)
                if separable and kernel_size > 1
                else ConvNormAct(n, channels, kernel_size)
                for n in inputs
            )
        )

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        height, width = low.shape[-2:]
        high = resize(high, (height, width), align_corners=self.align_corners)
        return self.refine(torch.cat([high, self.reduce(low)], 1))

    @torch.no_grad()
    def init_identity(self) -> None:
        """Initialize the convolutions so that the result is the encoder's features, upsampled.

        Their batch normalization is that of folded layers, see `layers.norm.folded_batch_norms`.
        """
        for layer in self.refine.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.dirac_(layer.weight, groups=layer.groups)
            elif isinstance(layer, BatchNorm2d):
                layer.reset_parameters()
                assert layer.running_var is not None
                layer.running_var.fill_(1 - layer.eps)


class DeepLabV3Plus(DeepLabV3):
    """DeepLab v3+: DeepLab v3 with a decoder between ASPP and classifier.

    `separable` concerns ASPP and decoder; `decoder_separable` overrides it for the decoder. All further arguments are
    those of `DeepLabV3`.

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W); `scores` are at stride 4.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        channels: int = 256,
        low_level_channels: int = 48,
        decoder_convs: int = 2,
        decoder_channels: int = 256,
        decoder_kernel_size: int = 3,
        conv3_tap: bool = False,
        separable: bool = False,
        decoder_separable: bool | None = None,
        depthwise_norm: bool = True,
        align_corners: bool = False,
        **encoder: Any,
    ) -> None:
        shared: dict[str, Any] = {"depthwise_norm": depthwise_norm, "align_corners": align_corners}
        super().__init__(backbone, channels=channels, separable=separable, **shared, **encoder)
        options: dict[str, Any] = {
            "low_level_channels": low_level_channels,
            "convs": decoder_convs,
            "kernel_size": decoder_kernel_size,
            "separable": separable if decoder_separable is None else decoder_separable,
            **shared,
        }
        low, middle = backbone.channels[:2]
        self.conv3 = Decoder(middle, channels, decoder_channels, **options) if conv3_tap else None
        self.decoder = Decoder(low, decoder_channels if conv3_tap else channels, decoder_channels, **options)
        for part in (self.conv3, self.decoder):
            if part is not None:
                init_convs(part)
        self.classifier = build_classifier(decoder_channels, self.num_classes)

    def init_missing(self, loaded: Collection[str]) -> None:
        """Begin with the scores of the encoder, if it and the classifier are loaded from a network without decoder."""
        decoders = [decoder for decoder in (self.conv3, self.decoder) if decoder is not None]
        added = not any(key.startswith(("conv3.", "decoder.")) for key in loaded)
        if added and any(key.startswith("aspp.") for key in loaded) and "classifier.weight" in loaded:
            for decoder in decoders:
                decoder.init_identity()

    def _classify(self, maps: list[Tensor]) -> Tensor:
        x = self._encode(maps)
        if self.conv3 is not None:
            x = self.conv3(maps[1], x)
        return self.classifier(self.decoder(maps[0], x))


SEPARABLE = {"separable": True, "multi_grid": None}

DEFAULTS: dict[str, Mapping[str, Any]] = {
    **{name: {} for name in RESNETS},
    **dict.fromkeys((*MOBILENETS, *XCEPTIONS, *EFFICIENTNETS), SEPARABLE),
}
"""Arguments whose defaults differ from those of `DeepLabV3Plus`, by backbone."""


@register_family("deeplab_v3_plus", DEFAULTS, PAPER, options_of=(DeepLabV3Plus, DeepLabV3), other_backbones=SEPARABLE)
def deeplab_v3_plus(backbone: Backbone, width: float, **options: Any) -> DeepLabV3Plus:
    """Build DeepLab v3+ on a backbone; `width` multiplies all numbers of channels."""
    widths = {"channels": scaled(256, width), "decoder_channels": scaled(256, width)}
    widths["low_level_channels"] = scaled(48, width)
    return DeepLabV3Plus(backbone, **{**widths, **options})
