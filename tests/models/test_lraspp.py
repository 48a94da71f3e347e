"""LR-ASPP: sizes of its maps, the gate, pooling windows, torchvision's network."""

from __future__ import annotations

import pytest
import torch

from atrous import create_model

NAME = "lraspp.mobilenet_v3_large"


def test_scores_are_at_stride_8() -> None:
    with torch.device("meta"):
        model = create_model(NAME).eval()
        image = torch.empty(1, 3, 513, 513)
    assert model.output_stride == 16
    assert model.scores(image).shape == (1, 21, 65, 65)
    assert model.low_classifier.weight.shape == (21, 40, 1, 1)
    assert model.high_classifier.weight.shape == (21, 128, 1, 1)


@torch.no_grad()
def test_the_gate_scales_channels_by_the_average_of_the_map() -> None:
    model = create_model(NAME, width=0.125).eval()
    x = torch.randn(2, model.backbone.channels[-1], 5, 7)
    gate = model.gate(x)
    assert gate.shape == (2, 16, 1, 1)
    weight = model.gate.conv.weight[:, :, 0, 0]
    torch.testing.assert_close(gate[:, :, 0, 0], torch.sigmoid(x.mean((2, 3)) @ weight.T))


@pytest.mark.parametrize("stride", [32, 16, 8])
@torch.no_grad()
def test_pooling_windows_keep_their_size_in_the_image(stride: int) -> None:
    """Figure 10: 49 x 49 at strides of 16 x 20, on a map of 64 x 128."""
    model = create_model(NAME, width=0.125, pooling_window=(49, 49), output_stride=stride).eval()
    windows: list[tuple] = []
    pool = torch.nn.functional.avg_pool2d

    def record(x: torch.Tensor, window: tuple[int, int], step: tuple[int, int]) -> torch.Tensor:
        windows.append((window, step))
        return pool(x, window, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("atrous.models.lraspp.F.avg_pool2d", record)
        gate = model.gate(torch.randn(1, model.backbone.channels[-1], 1024 // stride, 2048 // stride))
    side = 48 * 16 // stride + 1
    assert windows == [((min(side, 1024 // stride), side), (16 * 16 // stride, 20 * 16 // stride))]
    assert gate.shape[2:] == (1024 // stride, 2048 // stride)


@torch.no_grad()
def test_a_window_larger_than_the_map_is_the_average_of_the_map() -> None:
    model = create_model(NAME, width=0.125).eval()
    windowed = create_model(NAME, width=0.125, pooling_window=(49, 49)).eval()
    windowed.load_state_dict(model.state_dict())
    image = torch.randn(1, 3, 129, 161)
    torch.testing.assert_close(windowed(image), model(image))
