"""What `explain` says of receptive fields, against the gradient of an impulse; and what the papers say of theirs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from atrous import AtrousError, create_model, list_models
from atrous.analysis.counts import multiply_adds
from atrous.analysis.explain import explain
from atrous.analysis.receptive_field import FieldTracer
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


def averaging(module: nn.Module) -> nn.Module:
    """The same geometry with nothing that could cancel: every layer averages."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module.double().eval()


def average_for_max(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """In the place of max-pooling, which has a gradient at one pixel only: the same windows, averaged."""
    size, stride, padding, dilation = (
        v if isinstance(v, int) else v[0] for v in (kernel_size, stride or kernel_size, padding, dilation)
    )
    out = MAX_POOL(x, kernel_size, stride, padding, dilation, ceil_mode).shape[-2:]
    ends = [
        (n - 1) * stride + dilation * (size - 1) + 1 - padding - have for n, have in zip(out, x.shape[-2:], strict=True)
    ]
    x = F.pad(x.masked_fill(x.isneginf(), 0), (padding, ends[1], padding, ends[0]))
    kernel = torch.full((x.shape[1], 1, size, size), 1 / size**2, dtype=x.dtype)
    return F.conv2d(x, kernel, stride=stride, dilation=dilation, groups=x.shape[1])


def seen_by_gradient(module: nn.Module, image: torch.Tensor, row: int, column: int) -> tuple[int, int, int, int]:
    """First and last row and column of the image that an output pixel has a gradient at."""
    image = image.clone().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "max_pool2d", average_for_max)
        patch.setattr(F, "layer_norm", lambda x, *_: x)  # equal channels are normalized to zero, without a gradient
        output = module(image)
    output = output[-1] if isinstance(output, list) else output
    output[0, :, row, column].sum().backward()
    rows, columns = (image.grad[0].abs().sum((0, axis)).nonzero()[:, 0] for axis in (2, 1))
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def assert_as_the_gradient(module: nn.Module, channels: int, height: int, width: int) -> None:
    """At corners, borders and inside."""
    averaging(module)
    with FieldTracer() as tracer, torch.no_grad():
        image = tracer.watch(torch.rand(1, channels, height, width).double() / 1e6)
        output = module(image)
        rows, columns = tracer.field(output[-1] if isinstance(output, list) else output)
    for row, column in {(0, 0), (len(rows) // 2, len(columns) // 2), (len(rows) - 1, len(columns) // 3)}:
        expected = rows.first[row], rows.last[row], columns.first[column], columns.last[column]
        assert seen_by_gradient(module, image, row, column) == tuple(map(int, expected))


@pytest.mark.parametrize("name", list_backbones())
@pytest.mark.parametrize("stride", [32, 8])
def test_backbones_see_what_the_gradient_shows(name: str, stride: int) -> None:
    backbone = create_backbone(name, width=1 / 32)
    backbone.set_output_stride(stride)
    assert_as_the_gradient(backbone, 3, 97, 70)


class Fused(nn.Module):
    """A coarse map brought back to the size of the image."""

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
def test_parts_see_what_the_gradient_shows(module: nn.Module) -> None:
    assert_as_the_gradient(module, 4 if isinstance(module, PyramidPooling) else 2, 37, 50)


def test_the_context_module_sees_67_pixels() -> None:
    """Dilated convolutions (Yu, Koltun 2016) table 1: 3, 5, 9, 17, 33, 65, 67, as the basic module grows."""
    layers = nn.Sequential(*(nn.Conv2d(2, 2, 3, padding=d, dilation=d) for d in (1, 1, 2, 4, 8, 16, 1, 1)))
    layers[-1] = nn.Conv2d(2, 2, 1)
    fields = [stage.receptive_field[0] for stage in explain(layers, (99, 99), in_channels=2).layers]
    assert fields == [3, 5, 9, 17, 33, 65, 67, 67]
    told = {stage.name: stage.receptive_field[0] for stage in explain("dilation8.vgg16", width=0.125).stages}
    assert (told["context"] - told["score"]) // 8 + 1 == 67


def test_fcn_sees_404_pixels() -> None:
    """FCN (Long, Shelhamer, Darrell 2015) table 1."""
    told = {stage.name: stage for stage in explain("fcn_32s.vgg16", width=0.125).stages}
    assert told["backbone.classifier"].receptive_field == (404, 404)
    assert told["backbone.classifier"].stride == 32


def test_large_fov_sees_224_pixels() -> None:
    """DeepLab v1 table 1 counts how far fc6's outermost taps are apart, and the 32 pixels that one tap stood for."""
    layers = {layer.name: layer for layer in explain("deeplab_v1.vgg16", width=0.125).layers}
    before, fc6 = layers["backbone.pool5a"], layers["backbone.classifier.0"]
    assert fc6.receptive_field[0] - before.receptive_field[0] + 32 == 224
    assert fc6.dilations == (12,)


@torch.no_grad()
def test_unpooled_values_are_seen_from_their_windows() -> None:
    """Max-unpooling puts a value anywhere in the window it came from."""
    with FieldTracer() as tracer:
        pooled, indices = max_pool(tracer.watch(torch.rand(1, 1, 5, 6)))
        rows, columns = tracer.field(max_unpool(pooled, indices, (5, 6)))
    assert rows.first.tolist() == [0, 0, 2, 2, 4]
    assert rows.last.tolist() == [1, 1, 3, 3, 4]
    assert columns.last.tolist() == [1, 1, 3, 3, 5, 5]


def test_resnet_as_everyone_counts_it() -> None:
    told = {s.name: (s.receptive_field[0], s.stride) for s in explain("refinenet.resnet50", (97, 97)).stages}
    assert told["backbone.conv1"] == (7, 2)
    assert told["backbone.maxpool"] == (11, 4)
    assert [told[f"backbone.layer{n}"] for n in (1, 2, 3, 4)] == [(35, 4), (91, 8), (267, 16), (427, 32)]


@pytest.mark.parametrize("name", list_models())
def test_every_network_can_be_explained(name: str) -> None:
    told = explain(name, (97, 129), width=0.125, num_classes=5)
    with torch.device("meta"):
        model = create_model(name, width=0.125, num_classes=5)
    assert told.parameters == sum(p.numel() for p in model.parameters())
    assert told.multiply_adds == multiply_adds(model, 97, 129)
    *_, output = told.stages
    assert output.shape == (5, 97, 129)
    assert output.stride == 1
    assert len(told.rows()) == len(told.stages)
    assert {len(row) for row in told.rows(layers=True)} == {len(told.HEADER)}
    for index, stage in enumerate(told.stages):
        assert stage.inputs
        assert all(source < index for source in stage.inputs)
        assert stage.receptive_field[0] is None or stage.receptive_field[0] >= 1
    fed = {source for stage in told.stages for source in stage.inputs}
    assert fed == set(range(-1, len(told.stages) - 1))  # nothing is computed in vain


def test_dilations_and_strides_follow_the_output_stride() -> None:
    for stride, dilations in ((32, (1, 2, 4)), (16, (1, 4, 8)), (8, (2, 8, 16))):
        told = explain("deeplab_v3.resnet50", width=0.125, output_stride=stride)
        layer4 = next(stage for stage in told.stages if stage.name == "backbone.layer4")
        assert (layer4.stride, layer4.dilations) == (stride, dilations)
        assert layer4.shape[1:] == (512 // stride + 1,) * 2


def test_an_unknown_operation_is_no_guess() -> None:
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


def test_explaining_leaves_a_model_as_it_was() -> None:
    model = create_model("deeplab_v3.resnet50", width=0.125).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    explain(model, (65, 65))
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert np.isfinite(model(torch.randn(2, 3, 33, 33)).detach().numpy()).all()
