"""GCN: Large Kernel Matters, Improve Semantic Segmentation by Global Convolutional Network (Peng, Zhang, Yu, Luo, Sun;
CVPR 2017).

Classification needs dense connections over large regions, localization needs convolutions. The score maps therefore
come from convolutions whose kernels cover most of the map, at every stage of a ResNet; factorization makes them
affordable (figure 3). Residual units on the score maps refine the boundaries (figure 2).

The ablations of the paper are arguments:

- `kernel_size`, any odd number (table 1): 15 for crops of 512 pixels, 25 for the 800 of Cityscapes.
- `context`: "global" is the factored kernel, "trivial" a full k x k convolution (table 2), "stacked" a stack of 3x3
  convolutions with the same receptive field and `stacked_channels` between them (tables 3 and 4). According to the
  parameter counts of these tables, "trivial" and "stacked" have no biases; the stack has no nonlinearities.
- `refine_boundaries=False` removes the residual units (table 5).

The paper upsamples score maps by learned deconvolutions, which are initialized to bilinear interpolation here; public
ports interpolate (`upsampling="bilinear"`). At a small output stride some stages have equal resolution: between those
there is no upsampling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from atrous.backbones import Backbone
from atrous.errors import AtrousError
from atrous.layers.conv import conv3x3, init_convs
from atrous.layers.resize import BilinearDeconv, resize
from atrous.models.base import SegmentationModel, register_family
from atrous.registry import Paper

PAPER = Paper(
    title="Large Kernel Matters: Improve Semantic Segmentation by Global Convolutional Network",
    authors="Peng, Zhang, Yu, Luo, Sun",
    year=2017,
    arxiv="1703.02719",
)

LAST_CONV_SCALE = 0.1
"""Scale of the initial weights of convolutions whose outputs are added to score maps; the paper gives none. By He's
method alone, the sum of eleven blocks without normalization begins at a loss of hundreds."""

Context = Literal["global", "trivial", "stacked"]
Upsampling = Literal["deconvolution", "bilinear"]


class GlobalConvolution(nn.Module):
    """Global convolution: a factored k x k kernel, k x 1 then 1 x k plus 1 x k then k x 1.

    There is no nonlinearity inside, so the module is equivalent to a k x k convolution of low rank.

    Shape: (N, in_channels, H, W) -> (N, out_channels, H, W).
    Source: GCN figure 3B.
    Raises: `AtrousError` for an even kernel size, which would shift the map.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        _check_odd(kernel_size)

        def tall(inputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, out_channels, (kernel_size, 1), padding=(kernel_size // 2, 0))

        def wide(inputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, out_channels, (1, kernel_size), padding=(0, kernel_size // 2))

        self.left = nn.Sequential(tall(in_channels), wide(out_channels))
        self.right = nn.Sequential(wide(in_channels), tall(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x) + self.right(x)


class BoundaryRefinement(nn.Module):
    """Boundary refinement: a residual unit on score maps, x + (3x3 convolution, ReLU, 3x3 convolution).

    Shape: (N, channels, H, W) -> the same.
    Source: GCN figure 2C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels, bias=True)
        self.conv2 = conv3x3(channels, channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class LearnedUpsample2x(nn.Module):
    """Upsample by 2 with a learned deconvolution, then crop to `size`.

    Shape: `x` (N, channels, h, w) and a size of up to (2h, 2w) -> (N, channels, *size).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.deconv = BilinearDeconv(channels, 2, padding=1, learned=True)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        x = self.deconv(x)
        # Padding by a negative amount crops; unlike a slice it exports with dynamic sizes.
        return F.pad(x, (0, size[1] - x.shape[3], 0, size[0] - x.shape[2]))


class BilinearUpsample2x(nn.Module):
    """Upsample bilinearly to `size`, without parameters; takes the same arguments as `LearnedUpsample2x`."""

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return resize(x, (size[0], size[1]), align_corners=False)


def stacked_convs(in_channels: int, out_channels: int, kernel_size: int, channels: int) -> nn.Sequential:
    """Build a stack of 3x3 convolutions, without nonlinearities, with the receptive field of one of `kernel_size`.

    Shape: (N, in_channels, H, W) -> (N, out_channels, H, W).
    Source: tables 3 and 4.
    """
    widths = [in_channels, *[channels] * (kernel_size // 2 - 1), out_channels]
    return nn.Sequential(*(conv3x3(inputs, outputs) for inputs, outputs in pairwise(widths)))


def _check_odd(kernel_size: int) -> None:
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise AtrousError(f"kernel_size {kernel_size}: it must be odd and positive, such as {max(1, kernel_size + 1)}.")


class GCN(SegmentationModel):
    """GCN: score maps of every stage by large kernels, upsampled and added from coarse to fine.

    Shape: (N, in_channels, H, W) -> (N, num_classes, H, W); `scores` have the size of the image.
    Raises: `AtrousError` for an even kernel size.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int = 21,
        output_stride: int = 32,
        kernel_size: int = 15,
        context: Context = "global",
        stacked_channels: int = 2048,
        refine_boundaries: bool = True,
        upsampling: Upsampling = "deconvolution",
    ) -> None:
        super().__init__()
        _check_odd(kernel_size)
        self.num_classes = num_classes
        self.backbone = backbone

        def context_module(channels: int) -> nn.Module:
            if context == "global":
                return GlobalConvolution(channels, num_classes, kernel_size)
            if context == "stacked":
                return stacked_convs(channels, num_classes, kernel_size, stacked_channels)
            return nn.Conv2d(channels, num_classes, kernel_size, padding=kernel_size // 2, bias=False)

        def refinement() -> nn.Module:
            return BoundaryRefinement(num_classes) if refine_boundaries else nn.Identity()

        def upsampling_module() -> nn.Module:
            return LearnedUpsample2x(num_classes) if upsampling == "deconvolution" else BilinearUpsample2x()

        steps = len(backbone.channels) + 1  # between the stages, and from stride 4 over 2 to the image
        self.contexts = nn.ModuleList(context_module(channels) for channels in backbone.channels)
        self.refine_stage = nn.ModuleList(refinement() for _ in backbone.channels)
        self.upsample = nn.ModuleList(upsampling_module() for _ in range(steps))
        self.refine_sum = nn.ModuleList(refinement() for _ in range(steps))
        for part in (self.contexts, self.refine_stage, self.refine_sum):
            init_convs(part, mode="fan_in")
        for conv in self._last_convs():
            conv.weight.data.mul_(LAST_CONV_SCALE)
        self.set_output_stride(output_stride)

    def _last_convs(self) -> Iterator[nn.Conv2d]:
        """Iterate over the convolutions whose outputs are added to score maps."""
        for block in (*self.contexts, *self.refine_stage, *self.refine_sum):
            for branch in (block.left, block.right) if isinstance(block, GlobalConvolution) else (block,):
                yield from [layer for layer in branch.modules() if isinstance(layer, nn.Conv2d)][-1:]

    def _upsamples(self, index: int) -> bool:
        """Check whether a step upsamples, or is between equal strides."""
        finest, *coarser = self.backbone.strides
        strides = [1, min(2, finest), finest, *coarser]
        return strides[index] < strides[index + 1]

    def unused_parameters(self) -> list[nn.Parameter]:
        skipped = [module for index, module in enumerate(self.upsample) if not self._upsamples(index)]
        return [parameter for module in skipped for parameter in module.parameters()]

    def scores(self, image: Tensor) -> Tensor:
        scores = [
            refine(context(features))
            for context, refine, features in zip(self.contexts, self.refine_stage, self.backbone(image), strict=True)
        ]
        height, width = image.shape[-2:]
        sizes = [(height, width), ((height + 1) // 2, (width + 1) // 2), *(y.shape[-2:] for y in scores)]
        x = scores[-1]
        for index in reversed(range(len(self.upsample))):
            if self._upsamples(index):
                x = self.upsample[index](x, sizes[index])
            x = self.refine_sum[index](x + scores[index - 2] if index >= 2 else x)
        return x


@register_family("gcn", {"resnet50": {}, "resnet101": {}, "resnet152": {}}, PAPER, options_of=GCN)
def gcn(backbone: Backbone, width: float, **options: Any) -> GCN:
    """Build GCN on a ResNet; `width` multiplies the ResNet's channels, all others equal the number of classes."""
    return GCN(backbone, **options)
