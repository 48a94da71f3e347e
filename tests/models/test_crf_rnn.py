"""CRF-RNN: a network and a CRF trained together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from atrous import Segmenter, create_model
from atrous.card import Card, Preprocessing
from atrous.errors import AtrousError
from atrous.models import build_from_card
from atrous.models.crf_rnn import ModelWithCRF
from atrous.weights import load, save, write_card


def test_five_iterations_in_training_and_ten_in_evaluation() -> None:
    model = create_model("crf_rnn.vgg16", width=0.03125)
    assert (model.crf.training_iterations, model.crf.iterations) == (5, 10)
    assert (model.crf.sigma_alpha, model.crf.sigma_beta, model.crf.sigma_gamma) == (160, 3, 3)


def test_zero_kernel_weights_leave_the_scores_unchanged() -> None:
    model = create_model("crf_rnn.vgg16", width=0.03125, num_classes=4).eval()
    image = 50 * torch.randn(1, 3, 40, 30)
    with torch.no_grad():
        model.network.score.weight.normal_()
        assert (model(image) - model.network(image)).abs().max() > 1e-3
        model.crf.spatial_weights.zero_()
        model.crf.bilateral_weights.zero_()
        torch.testing.assert_close(model(image), model.network(image))


@torch.no_grad()
def test_the_mean_cancels_and_the_std_is_undone() -> None:
    network = create_model("deeplab_v3.mobilenet_v2", width=0.125, num_classes=3).eval()
    network.scores = lambda image: torch.linspace(-1, 1, 3 * 20 * 20).view(1, 3, 20, 20)  # the same for any image
    pixels = torch.randint(0, 256, (1, 3, 20, 20)).float()
    plain = ModelWithCRF(network, std=(1.0, 1.0, 1.0)).eval()
    std = (58.0, 57.0, 56.0)
    normalized = ModelWithCRF(network, std=std).eval()
    mean_and_std = (pixels - 120) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(plain(pixels), normalized(mean_and_std), rtol=1e-3, atol=1e-3)


def card_of(**preprocessing: Any) -> Card:
    return Card(
        model="crf_rnn.vgg16",
        arguments={"width": 0.03125},
        classes=("no", "yes"),
        colors=((0, 0, 0), (255, 255, 255)),
        preprocessing=Preprocessing(**preprocessing),
    )


def test_the_std_is_that_of_the_preprocessing(tmp_path: Path) -> None:
    """However the network is made: without a card, by the card of its weights, or on a network that has a card."""
    caffe = card_of(mean=(104, 117, 123), std=(1, 1, 1), channel_order="BGR")
    fresh = create_model("crf_rnn.vgg16", width=0.03125, num_classes=2)
    assert fresh.std == Preprocessing().std
    assert build_from_card(caffe).std == (1, 1, 1)
    fresh.card = caffe
    assert fresh.std == (1, 1, 1)
    assert load(save(fresh, tmp_path / "a.safetensors")).std == (1, 1, 1)
    write_card(tmp_path / "a.safetensors", card_of(std=(2, 3, 4)))
    loaded = load(tmp_path / "a.safetensors")
    assert loaded.std == (2, 3, 4)
    assert ModelWithCRF(loaded).std == (2, 3, 4)
    assert ModelWithCRF(loaded, std=(9, 9, 9)).std == (9, 9, 9)
    fresh.card = None
    assert Segmenter(fresh, caffe, device="cpu").model.std == (1, 1, 1)


@torch.no_grad()
def test_no_message_crosses_an_edge_of_60_levels() -> None:
    """The bilateral kernel has a sigma of 3 levels, so normalized pixels have to be brought back to levels."""
    pixels = torch.zeros(1, 3, 16, 16)
    pixels[..., 8:] = 60
    model = create_model("crf_rnn.vgg16", width=0.03125, num_classes=2).eval()
    left = torch.zeros(1, 1, 16, 16)
    left[..., :8] = 1
    seen: list[torch.Tensor] = []
    model.crf.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    preprocessing = Preprocessing()
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (preprocessing.mean, preprocessing.std))
    model((pixels - mean) / std)
    _, bilateral = model.crf.filters(seen[0], torch.float32)
    filtered = bilateral(left.flatten(2).mT).view(16, 16)
    assert filtered[:, 8:].max() < 0.01
    assert filtered[:, :8].min() > 0.99


def test_the_multipliers_of_the_released_prototxt() -> None:
    """Learning rates 10,000 times higher for both kernels, 1,000 times for the compatibility."""
    model = create_model("crf_rnn.vgg16", width=0.03125, num_classes=2)
    multipliers = {"crf.spatial": 1e4, "crf.bilateral": 1e4, "crf.compatibility": 1e3, "bias": 2}
    groups = model.parameter_groups(1e-13, lr_mult=multipliers)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    parameters = (model.crf.spatial_weights, model.crf.bilateral_weights, model.crf.compatibility)
    assert [rates[id(parameter)] for parameter in parameters] == pytest.approx([1e-9, 1e-9, 1e-10], abs=0)
    assert rates[id(model.network.score.weight)] == pytest.approx(1e-13, abs=0)
    assert rates[id(model.network.score.bias)] == pytest.approx(2e-13, abs=0)
    with pytest.raises(AtrousError, match=r"no part 'crf.spatal'\. Did you mean 'crf.spatial'"):
        model.parameter_groups(1e-13, lr_mult={"crf.spatal": 10})


def test_saves_and_loads_with_a_card(tmp_path: Path) -> None:
    model = create_model("crf_rnn.vgg16", width=0.03125, num_classes=2, std=(2.0, 2.0, 2.0)).eval()
    torch.nn.init.normal_(model.network.score.weight)
    loaded = load(save(model, tmp_path / "a.safetensors", card=card_of(std=(2.0, 2.0, 2.0))))
    image = 50 * torch.randn(1, 3, 40, 30)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), model(image))
