"""VGG-16: torchvision's weights in fully convolutional form, Caffe's pooling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from atrous import AtrousError
from atrous.backbones import create_backbone
from atrous.backbones.vgg import FullyConnected, decimate
from atrous.layers.pool import CeilMaxPool2d

WIDTH = 0.03125  # 16 channels of 512, 128 of 4096


def matrices(num_classes: int = 10) -> dict[str, torch.Tensor]:
    """A classifier's state dict with the shapes and names of torchvision's."""
    shapes = {"0": (128, 16 * 49), "3": (128, 128), "6": (num_classes, 128)}
    weights = {f"classifier.{index}.weight": torch.randn(shape) / shape[1] ** 0.5 for index, shape in shapes.items()}
    return weights | {f"classifier.{index}.bias": torch.randn(shape[0]) for index, shape in shapes.items()}


@torch.no_grad()
def test_fully_connected_layers_load_as_matrices_and_mean_the_same() -> None:
    state = matrices()
    backbone = create_backbone("vgg16", width=WIDTH, num_classes=10).eval()
    backbone.load_state_dict(backbone.state_dict() | state)
    features = torch.randn(2, 16, 7, 7)
    hidden = features.flatten(1)
    for index in ("0", "3", "6"):
        hidden = F.linear(
            hidden if index == "0" else hidden.relu(), *(state[f"classifier.{index}.{p}"] for p in ("weight", "bias"))
        )
    torch.testing.assert_close(backbone._classify(features), hidden)


def test_smaller_fully_connected_layers_are_decimated() -> None:
    state = {key.removeprefix("classifier."): value for key, value in matrices().items()}
    small = FullyConnected(16, 32, kernel_size=3, dilation=12)
    small.load_state_dict({key: value for key, value in state.items() if key[0] != "6"})
    big = state["0.weight"].view(128, 16, 7, 7)
    assert torch.equal(small[0].weight, big[::4, :, ::3, ::3][:32])
    assert torch.equal(small[3].weight, state["3.weight"].view(128, 128, 1, 1)[::4, ::4])
    assert torch.equal(small[0].bias, state["0.bias"][::4])
    assert decimate(torch.arange(7), (4,)).tolist() == [0, 2, 4, 6]
    assert decimate(torch.arange(4096), (1024,)).tolist() == list(range(0, 4096, 4))


@pytest.mark.parametrize(("kernel", "sizes"), [(2, [161, 81, 41, 21, 11]), (3, [161, 81, 41, 21, 11])])
def test_321_pixels_as_in_caffe(kernel: int, sizes: list[int]) -> None:
    backbone = create_backbone("vgg16", width=WIDTH, pool_kernels=(kernel,) * 5)
    assert [m.shape[2] for m in backbone(torch.randn(1, 3, 321, 33))] == sizes
    backbone.set_output_stride(8)
    assert [m.shape[2] for m in backbone(torch.randn(1, 3, 321, 33))] == [161, 81, 41, 41, 41]


@pytest.mark.parametrize("kernels", [(2,) * 5, (3,) * 5, (2, 2, 2, 1, 1)])
@torch.no_grad()
def test_every_kind_of_pooling_is_consistent(kernels: tuple[int, ...]) -> None:
    backbone = create_backbone("vgg16", width=WIDTH, pool_kernels=kernels, fc={"kernel_size": 3, "dilation": 3}).eval()
    image = torch.randn(1, 3, 161, 97)
    strided = backbone(image)[-1]
    for stride in (16, 8, 4, 2, 1):
        backbone.set_output_stride(stride)
        dense = backbone(image)[-1][..., :: 32 // stride, :: 32 // stride]
        assert (dense - strided).abs().max() <= 1e-4 * strided.std()


@torch.no_grad()
def test_pooling_that_is_not_dilated_is_something_else() -> None:
    backbone = create_backbone("vgg16", width=WIDTH, pool_kernels=(3,) * 5, dilate_pools=False).eval()
    image = torch.randn(1, 3, 161, 97)
    strided = backbone(image)[-1]
    backbone.set_output_stride(8)
    assert (backbone(image)[-1][..., ::4, ::4] - strided).abs().max() > 0.1 * strided.std()
    pools = [unit for unit in backbone.features if isinstance(unit, CeilMaxPool2d)]
    assert [pool.dilation for pool in pools] == [(1, 1)] * 5
    assert [unit.dilation[0] for unit in backbone.features if isinstance(unit, torch.nn.Conv2d)][-3:] == [2, 2, 2]


def test_two_even_poolings_without_stride_leave_the_map_in_its_place() -> None:
    """DeepLab v1 crops one label on each side instead; the values inside are the same."""
    backbone = create_backbone("vgg16", width=WIDTH, dilate_pools=False)
    backbone.set_output_stride(8)
    pool4, pool5 = [unit for unit in backbone.features if isinstance(unit, CeilMaxPool2d)][3:]
    x = torch.randn(1, 1, 6, 6)
    assert torch.equal(pool5(pool4(x)), F.max_pool2d(x, 3, 1, 1))


def test_bad_arguments_are_named() -> None:
    with pytest.raises(AtrousError, match=r"pool_kernels \(2, 2\): VGG-16 takes 5"):
        create_backbone("vgg16", width=WIDTH, pool_kernels=(2, 2))
    with pytest.raises(AtrousError, match="either fc, to segment, or num_classes"):
        create_backbone("vgg16", width=WIDTH, fc={}, num_classes=10)
    with pytest.raises(AtrousError, match="no classifier"):
        create_backbone("vgg16", width=WIDTH, fc={}).classify(torch.randn(1, 3, 64, 64))
