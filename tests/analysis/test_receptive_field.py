"""Traced receptive fields against the gradient of single output pixels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from atrous import AtrousError
from atrous.analysis.explain import explain
from atrous.analysis.receptive_field import ReceptiveFieldTracer
from atrous.backbones import create_backbone, list_backbones
from atrous.layers.aspp import ASPP, ImagePooling
from atrous.layers.conv import CeilConv2d
from atrous.layers.norm import LayerNorm2d
from atrous.layers.pad import mirror_pad
from atrous.models.gcn import GlobalConvolution
from atrous.models.pspnet import PyramidPooling
from atrous.models.refinenet import ChainedResidualPooling, MultiResolutionFusion
from atrous.models.segnet import max_pool, max_unpool

MAX_POOL = F.max_pool2d


def average_layers(module: nn.Module) -> nn.Module:
    """Let every layer average, so that the geometry stays and no gradients cancel."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module.double().eval()


def average_pool(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """Replace max pooling, whose gradient is at one pixel only, by averages over the same windows."""
    size, stride, padding, dilation = (
        v if isinstance(v, int) else v[0] for v in (kernel_size, stride or kernel_size, padding, dilation)
    )
    out = MAX_POOL(x, kernel_size, stride, padding, dilation, ceil_mode).shape[-2:]
    ends = [
        (n - 1) * stride + dilation * (size - 1) + 1 - padding - side for n, side in zip(out, x.shape[-2:], strict=True)
    ]
    x = F.pad(x.masked_fill(x.isneginf(), 0), (padding, ends[1], padding, ends[0]))
    kernel = torch.full((x.shape[1], 1, size, size), 1 / size**2, dtype=x.dtype)
    return F.conv2d(x, kernel, stride=stride, dilation=dilation, groups=x.shape[1])


def field_of_gradient(module: nn.Module, image: torch.Tensor, row: int, column: int) -> tuple[int, int, int, int]:
    """Find the first and last row and column of the image where an output pixel has a gradient."""
    image = image.clone().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "max_pool2d", average_pool)
        patch.setattr(F, "layer_norm", lambda x, *_: x)  # equal channels are normalized to zero, without a gradient
        output = module(image)
    output = output[-1] if isinstance(output, list) else output
    output[0, :, row, column].sum().backward()
    rows, columns = (image.grad[0].abs().sum((0, axis)).nonzero()[:, 0] for axis in (2, 1))
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def assert_field_matches_gradient(module: nn.Module, channels: int, height: int, width: int) -> None:
    """Compare traced receptive fields with the gradient at corners, borders and inside."""
    average_layers(module)
    with ReceptiveFieldTracer() as tracer, torch.no_grad():
        image = tracer.set_image(torch.rand(1, channels, height, width).double() / 1e6)
        output = module(image)
        rows, columns = tracer.receptive_field(output[-1] if isinstance(output, list) else output)
    for row, column in {(0, 0), (len(rows) // 2, len(columns) // 2), (len(rows) - 1, len(columns) // 3)}:
        expected = rows.first[row], rows.last[row], columns.first[column], columns.last[column]
        assert field_of_gradient(module, image, row, column) == tuple(map(int, expected))


@pytest.mark.parametrize("name", list_backbones())
@pytest.mark.parametrize("stride", [32, 8])
def test_receptive_fields_of_backbones_match_the_gradient(name: str, stride: int) -> None:
    backbone = create_backbone(name, width=1 / 32)
    backbone.set_output_stride(stride)
    assert_field_matches_gradient(backbone, 3, 97, 70)


class Fused(nn.Module):
    """Fuse a coarse map with the image."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(2, 2, 3, stride=4, padding=1)
        self.fuse = MultiResolutionFusion([2, 2], 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fuse([x, self.coarse(x)])


class Mirrored(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return mirror_pad(x, (3, 4), (50, 6))


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(*(nn.Conv2d(2, 2, 3, padding=d, dilation=d) for d in (1, 1, 2, 4, 8, 16, 1))),
        nn.Sequential(nn.Conv2d(2, 2, 5, stride=2), nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1)),
        nn.Sequential(nn.AvgPool2d(3, 2, 1, ceil_mode=True), nn.ReflectionPad2d((3, 2, 1, 4)), nn.Conv2d(2, 2, 3)),
        nn.Sequential(Mirrored(), nn.Conv2d(2, 2, 3, stride=2)),
        nn.Sequential(nn.ReplicationPad2d((3, 1, 0, 4)), nn.LocalResponseNorm(3), nn.Conv2d(2, 2, 3, stride=2)),
        nn.Sequential(nn.ZeroPad2d((-2, 1, 2, -1)), nn.Conv2d(2, 2, 3, stride=3)),
        nn.Sequential(nn.Conv2d(2, 2, 3, stride=2), nn.Upsample((40, 31), mode="bilinear", align_corners=False)),
        nn.Sequential(nn.Conv2d(2, 2, 3, stride=2), nn.Upsample((40, 31), mode="bilinear", align_corners=True)),
        nn.Sequential(nn.Conv2d(2, 4, 3, stride=2), LayerNorm2d(4), CeilConv2d(4, 2, 2, stride=2)),
        GlobalConvolution(2, 2, 7),
        ChainedResidualPooling(2, stages=2),
        Fused(),
        PyramidPooling(4, bins=(2, 3)),
        ASPP(2, 2, rates=(1, 2), image_pooling=False),
        ImagePooling(2, 2),
    ],
    ids=lambda module: type(module).__name__,
)
def test_receptive_fields_of_layers_match_the_gradient(module: nn.Module) -> None:
    assert_field_matches_gradient(module, 4 if isinstance(module, PyramidPooling) else 2, 37, 50)


@torch.no_grad()
def test_receptive_fields_of_max_unpooling() -> None:
    """Max unpooling may place a value anywhere in the window it came from."""
    with ReceptiveFieldTracer() as tracer:
        pooled, indices = max_pool(tracer.set_image(torch.rand(1, 1, 5, 6)))
        rows, columns = tracer.receptive_field(max_unpool(pooled, indices, (5, 6)))
    assert rows.first.tolist() == [0, 0, 2, 2, 4]
    assert rows.last.tolist() == [1, 1, 3, 3, 4]
    assert columns.last.tolist() == [1, 1, 3, 3, 5, 5]


def test_unknown_operations_raise_an_error() -> None:
    with pytest.raises(AtrousError, match="flip"):
        explain(nn.Sequential(nn.Conv2d(2, 2, 3), Flip()), (9, 9), in_channels=2)
    with pytest.raises(AtrousError, match="rows and columns"):
        explain(nn.Sequential(nn.Conv2d(2, 2, 3), nn.LayerNorm((7, 7))), (9, 9), in_channels=2)
    with pytest.raises(AtrousError, match="permuted"):
        explain(nn.Sequential(nn.Conv2d(2, 2, 3), Transpose()), (9, 9), in_channels=2)


class Flip(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flip(-1)


class Transpose(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 1, 3, 2)
