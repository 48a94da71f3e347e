"""GCN: large kernels, with the parameter counts and the linearity of the ablations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from atrous import AtrousError, create_model
from atrous.analysis.counts import count_parameters
from atrous.models.gcn import BoundaryRefinement, GlobalConvolution, stacked_convs

NAME = "gcn.resnet50"

WEIGHTS = {3: 260_694, 5: 434_490, 7: 608_286, 9: 782_082, 11: 955_878, 13: 1_129_674, 15: 1_303_470}
"""Of one module from 2048 to 21 channels: table 2, in thousands (k = 9: 782K), without the biases."""


@pytest.mark.parametrize(("kernel_size", "weights"), WEIGHTS.items())
def test_parameters_of_a_large_kernel(kernel_size: int, weights: int) -> None:
    with torch.device("meta"):
        module = GlobalConvolution(2048, 21, kernel_size)
    assert count_parameters(module) == weights + 4 * 21
    assert weights == 2 * kernel_size * (2048 * 21 + 21 * 21)


@pytest.mark.parametrize(
    ("context", "options", "thousands"),
    [
        ("trivial", {"kernel_size": 3}, 387),
        ("trivial", {"kernel_size": 5}, 1075),
        ("trivial", {"kernel_size": 7}, 2107),
        ("trivial", {"kernel_size": 9}, 3484),
        ("stacked", {"kernel_size": 7, "stacked_channels": 2048}, 75885),
        ("stacked", {"kernel_size": 7, "stacked_channels": 1024}, 28505),
        ("stacked", {"kernel_size": 7, "stacked_channels": 210}, 4307),
    ],
)
def test_parameters_of_the_alternatives(context: str, options: dict, thousands: int) -> None:
    with torch.device("meta"):
        model = create_model(NAME, context=context, **options)
    assert round(count_parameters(model.contexts[-1]) / 1000) == thousands


@torch.no_grad()
def test_a_large_kernel_is_linear_with_a_receptive_field_of_k_by_k() -> None:
    module = GlobalConvolution(3, 2, 5).double()
    zero = module(torch.zeros(1, 3, 11, 13, dtype=torch.float64))
    a, b = torch.randn(2, 1, 3, 11, 13, dtype=torch.float64)
    torch.testing.assert_close(module(2 * a - b) - zero, 2 * (module(a) - zero) - (module(b) - zero))
    impulse = torch.zeros(1, 3, 11, 13, dtype=torch.float64)
    impulse[0, 0, 5, 6] = 1
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.zeros_(conv.bias)
    reached = module(impulse)[0, 0].nonzero()
    assert (reached.min(0).values.tolist(), reached.max(0).values.tolist()) == ([3, 4], [7, 8])


@torch.no_grad()
def test_a_large_kernel_is_one_dense_convolution_of_low_rank() -> None:
    module = GlobalConvolution(3, 2, 5).double()
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.zeros_(conv.bias)
    (tall, wide), (wide2, tall2) = module.left, module.right
    kernel = torch.einsum("omv,mih->oihv", wide.weight[:, :, 0], tall.weight[..., 0])
    kernel = kernel + torch.einsum("omh,miv->oihv", tall2.weight[..., 0], wide2.weight[:, :, 0])
    x = torch.randn(1, 3, 16, 17, dtype=torch.float64)
    inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))  # at the border the zeros between differ
    torch.testing.assert_close(module(x)[inside], F.conv2d(x, kernel))


def test_a_stack_of_convolutions_has_no_nonlinearities() -> None:
    layers = stacked_convs(8, 3, 9, 5)
    assert [type(layer) for layer in layers] == [nn.Conv2d] * 4
    assert [tuple(layer.weight.shape[:2]) for layer in layers] == [(5, 8), (5, 5), (5, 5), (3, 5)]


@torch.no_grad()
def test_boundary_refinement_is_a_residual() -> None:
    module = BoundaryRefinement(3)
    nn.init.zeros_(module.conv2.weight)
    nn.init.zeros_(module.conv2.bias)
    x = torch.randn(1, 3, 7, 8)
    assert torch.equal(module(x), x)


def test_nine_boundary_refinements() -> None:
    model = create_model(NAME, width=0.125)
    assert sum(isinstance(module, BoundaryRefinement) for module in model.modules()) == 9
    without = create_model(NAME, width=0.125, refine_boundaries=False)
    assert not any(isinstance(module, BoundaryRefinement) for module in without.modules())


@pytest.mark.parametrize("options", [{"upsampling": "bilinear"}, {"context": "trivial"}, {"context": "stacked"}])
@pytest.mark.parametrize("size", [(65, 33), (50, 47), (1, 3)])
@torch.no_grad()
def test_variants_keep_the_size(options: dict, size: tuple[int, int]) -> None:
    model = create_model(NAME, width=0.125, num_classes=3, kernel_size=7, **options).eval()
    assert model(torch.randn(1, 3, *size)).shape == (1, 3, *size)


@torch.no_grad()
def test_deconvolutions_are_initialized_to_interpolation() -> None:
    learned = create_model(NAME, width=0.125, num_classes=3).eval()
    fixed = create_model(NAME, width=0.125, num_classes=3, upsampling="bilinear").eval()
    fixed.load_state_dict(learned.state_dict(), strict=False)
    image = torch.randn(1, 3, 64, 64)
    inside = (slice(None), slice(None), slice(30, 34), slice(30, 34))
    scores = [torch.ones(1, 3, 4, 4)]
    torch.testing.assert_close(learned.upsample[0](scores[0], (8, 8))[..., 1:-1, 1:-1], torch.ones(1, 3, 6, 6))
    assert learned(image)[inside].shape == fixed(image)[inside].shape == (1, 3, 4, 4)


@pytest.mark.parametrize("stride", [4, 2])
@torch.no_grad()
def test_small_output_strides_keep_the_size(stride: int) -> None:
    model = create_model(NAME, width=0.125, num_classes=3, output_stride=stride, kernel_size=3).eval()
    assert model(torch.randn(1, 3, 21, 14)).shape == (1, 3, 21, 14)


@pytest.mark.parametrize("stride", [32, 16, 4, 2])
def test_only_deconvolutions_between_equal_strides_are_unused(stride: int) -> None:
    model = create_model(NAME, width=0.125, num_classes=3, output_stride=stride, kernel_size=3)
    model(torch.randn(1, 3, 33, 33)).sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    unused = {id(parameter) for parameter in model.unused_parameters()}
    assert {name for name, parameter in model.named_parameters() if id(parameter) in unused} == without
    assert len(without) == {32: 0, 16: 1, 4: 3, 2: 4}[stride]


def test_invalid_arguments() -> None:
    with pytest.raises(AtrousError, match="kernel_size 14: it must be odd and positive"):
        create_model(NAME, width=0.125, kernel_size=14)
