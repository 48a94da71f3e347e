"""VGG-16: Very Deep Convolutional Networks for Large-Scale Image Recognition (Simonyan, Zisserman; ICLR 2015).

Parameter names are torchvision's (`features.0`, `classifier.0`, ...), for `vgg16` and `vgg16_bn`. Its fully connected
layers are convolutions here, as in FCN: fc6 of 7x7 and fc7 of 1x1. torchvision's matrices are reshaped when they are
loaded, and subsampled if fc6 and fc7 are smaller, as in DeepLab.

Arguments cover what the segmentation papers vary:

- `pool_kernels`: windows of 2x2 (the paper), of 3x3 (DeepLab), or of 1x1, which only subsamples (Dilated, which removes
  both stride and pooling at the end: at output stride 8 a 1x1 window does nothing).
- `dilate_pools=False`: a pooling that lost its stride is not dilated. DeepLab v1 and v2 were released that way, because
  Caffe has no dilated pooling; their features differ from those of the strided network.
- `padding=0`: the 3x3 convolutions are "valid", as in Dilated.
- `fc`: fc6 and fc7, after `pool5`, are part of the network (`FullyConnected`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from atrous.backbones.base import Backbone, register_backbone, torchvision_imagenet
from atrous.errors import AtrousError
from atrous.layers.conv import init_convs
from atrous.layers.dilate import original_geometry
from atrous.layers.norm import BatchNorm2d
from atrous.layers.pool import CeilMaxPool2d
from atrous.registry import Paper

PAPER = Paper(
    "Very Deep Convolutional Networks for Large-Scale Image Recognition", "Simonyan, Zisserman", 2014, "1409.1556"
)

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and 3x3 convolutions of each stage: configuration D of table 1."""

IMAGENET = (
    torchvision_imagenet("vgg16-397923af.pth", batch_norm=False),
    torchvision_imagenet("vgg16_bn-6c64b313.pth", batch_norm=True),
)


class FullyConnected(nn.Sequential):
    """VGG's fc6 and fc7 as convolutions, with ReLU and dropout, and fc8 if `num_classes` is given.

    Children 0, 3 and 6 are fc6, fc7 and fc8, as in torchvision's `classifier`. By default the padding keeps the size of
    the map; `padding=0` does not pad.

    Shape: (N, in_channels, h, w) -> (N, num_classes or channels, h, w), smaller if unpadded.
    Source: FCN section 3.1 (convolutions), DeepLab v1 section 4.1 and table 2 (`kernel_size`, `dilation`, `channels`).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 4096,
        *,
        kernel_size: int = 7,
        dilation: int = 1,
        padding: int | None = None,
        num_classes: int | None = None,
    ) -> None:
        pad = dilation * (kernel_size - 1) // 2 if padding is None else padding
        fc6 = nn.Conv2d(in_channels, channels, kernel_size, padding=pad, dilation=dilation)
        fc7 = nn.Conv2d(channels, channels, 1)
        layers: list[nn.Module] = [fc6, nn.ReLU(), nn.Dropout(), fc7, nn.ReLU(), nn.Dropout()]
        if num_classes:
            layers.append(nn.Conv2d(channels, num_classes, 1))
        super().__init__(*layers)
        self.register_load_state_dict_pre_hook(_fit_matrices)


def _fit_matrices(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Reshape a classifier's matrices to convolutions, subsampled to the taps and channels of the module."""
    for name, layer in module.named_children():
        weight = state_dict.get(f"{prefix}{name}.weight")
        if not isinstance(layer, nn.Conv2d) or weight is None or weight.ndim != 2:
            continue
        taps = 7 if name == "0" else 1  # torchvision pools to 7x7
        shape = layer.weight.shape
        state_dict[f"{prefix}{name}.weight"] = decimate(weight.reshape(weight.shape[0], -1, taps, taps), shape)
        state_dict[f"{prefix}{name}.bias"] = decimate(state_dict[f"{prefix}{name}.bias"], shape[:1])


def decimate(weight: Tensor, shape: Sequence[int]) -> Tensor:
    """Subsample each axis evenly to the given shape: taps 0, 3, 6 of 7 for 3; channels 0, 4, 8, ..., of 4096 for 1024.

    Source: DeepLab v1 section 4.1 ("simple decimation").
    """
    for axis, (have, want) in enumerate(zip(weight.shape, shape, strict=True)):
        if 1 < want < have:
            step = (have - 1) // (want - 1)
            weight = weight[(slice(None),) * axis + (slice(0, step * want, step),)]
    return weight


@register_backbone("vgg16", PAPER, batch_norm=False, pretrained={"imagenet": IMAGENET})
@register_backbone("vgg16_bn", PAPER, batch_norm=True, pretrained={"imagenet": IMAGENET})
class VGG16(Backbone):
    """The thirteen convolutions of VGG-16, with fc6 and fc7 if `fc` is given.

    A stage ends with its pooling (FCN's "pool3"), the last one with fc7 if `fc` is given. `fc` holds arguments of
    `FullyConnected`, with its dilation at output stride 32; `average_pool` inserts DeepLab v1's 3x3 average (pool5a)
    before fc6. With `num_classes` it is the classifier of the paper. `width` multiplies every number of channels.

    Shape: (N, in_channels, H, W) -> maps of 64, 128, 256, 512 and 512 (with `fc`: 4096) channels at strides 2, 4, 8,
    16, 32 (x width).
    Raises: `AtrousError` for other than five windows of 1, 2 or 3, and for `fc` and `num_classes` together.
    """

    native_strides = (2, 4, 8, 16, 32)
    classifier_keys = ("classifier.",)

    def __init__(
        self,
        *,
        batch_norm: bool = False,
        pool_kernels: Sequence[int] = (2, 2, 2, 2, 2),
        dilate_pools: bool = True,
        padding: int = 1,
        fc: dict[str, int] | None = None,
        average_pool: bool = False,
        in_channels: int = 3,
        width: float = 1.0,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        if len(pool_kernels) != len(STAGES) or not set(pool_kernels) <= {1, 2, 3}:
            raise AtrousError(f"pool_kernels {tuple(pool_kernels)}: VGG-16 takes 5 values of 1, 2 or 3.")
        if fc is not None and num_classes:
            raise AtrousError("VGG-16 takes either fc, to segment, or num_classes, to classify.")
        self.has_fc = fc is not None
        features: list[nn.Module] = []
        channels = in_channels
        last_even = 4 if pool_kernels[4] == 2 else 3  # padded before, so that the map stays in its place at stride 8
        for stage, ((base, count), kernel) in enumerate(zip(STAGES, pool_kernels, strict=True)):
            out = max(4, round(base * width))
            for _ in range(count):
                features.append(nn.Conv2d(channels, out, 3, padding=padding))
                features += [BatchNorm2d(out)] if batch_norm else []
                features.append(nn.ReLU(inplace=True))
                channels = out
            pad_before = not dilate_pools and stage == last_even
            features.append(CeilMaxPool2d(kernel, dilates=dilate_pools, pad_before=pad_before))
        self.features = nn.Sequential(*features)
        self.pool5a = nn.AvgPool2d(3, stride=1, padding=1) if average_pool else None
        self.channels = tuple(max(4, round(base * width)) for base, _ in STAGES)
        self.classifier: FullyConnected | None = None
        if self.has_fc or num_classes:
            options = {"channels": 4096, **({"padding": 0} if fc is None else fc)}
            options["channels"] = max(4, round(options["channels"] * width))
            self.classifier = FullyConnected(channels, num_classes=num_classes, **options)
        if fc is not None:
            self.channels = (*self.channels[:4], options["channels"])
        init_convs(self, mode="fan_in")

    def blocks(self) -> list[nn.Module]:
        return [*self.features, *(self.classifier or [] if self.has_fc else [])]

    def possible_output_strides(self) -> list[int]:
        possible = super().possible_output_strides()
        if self.classifier is None or not self.has_fc:
            return possible
        fc6 = original_geometry(self.classifier.get_submodule("0"))  # type: ignore[arg-type]
        lopsided = fc6.padding > 0 and fc6.dilation * (fc6.kernel - 1) % 2  # an even kernel, centered between pixels
        return possible[:-1] if lopsided else possible

    def stages(self) -> list[nn.Sequential]:
        """List the five stages, each with its pooling as the last layer."""
        ends = [0, *(i + 1 for i, layer in enumerate(self.features) if isinstance(layer, CeilMaxPool2d))]
        return [nn.Sequential(*list(self.features)[start:end]) for start, end in pairwise(ends)]

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages():
            x = stage(x)
            maps.append(x)
        if self.pool5a is not None:
            maps[-1] = self.pool5a(maps[-1])
        if self.classifier is not None and self.has_fc:
            maps[-1] = self.classifier(maps[-1])
        return maps

    def _classify(self, features: Tensor) -> Tensor:
        if self.classifier is None or self.has_fc:
            return super()._classify(features)
        return self.classifier(F.adaptive_avg_pool2d(features, 7)).flatten(1)
