"""CRF-RNN: a network and a CRF trained together."""

from __future__ import annotations

from pathlib import Path

import torch

from atrous import create_model
from atrous.card import Card, Preprocessing
from atrous.models.crf_rnn import ModelWithCRF
from atrous.weights import load, save


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
    plain = ModelWithCRF(network).eval()
    std = (58.0, 57.0, 56.0)
    normalized = ModelWithCRF(network, std=std).eval()
    mean_and_std = (pixels - 120) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(plain(pixels), normalized(mean_and_std), rtol=1e-3, atol=1e-3)


def test_saves_and_loads_with_a_card(tmp_path: Path) -> None:
    model = create_model("crf_rnn.vgg16", width=0.03125, num_classes=2, std=(2.0, 2.0, 2.0)).eval()
    torch.nn.init.normal_(model.network.score.weight)
    card = Card(
        model="crf_rnn.vgg16",
        arguments={"width": 0.03125, "std": (2.0, 2.0, 2.0)},
        classes=("no", "yes"),
        colors=((0, 0, 0), (255, 255, 255)),
        preprocessing=Preprocessing(),
    )
    loaded = load(save(model, tmp_path / "a.safetensors", card=card))
    image = 50 * torch.randn(1, 3, 40, 30)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), model(image))
