"""The training loss over all outputs of a network, at full size and subsampled."""

from __future__ import annotations

import pytest
import torch

from atrous.layers.losses import CrossEntropy, Dice, WeightedSum
from atrous.training.losses import subsample, training_loss

K = 4


@pytest.fixture
def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels, a tenth of the pixels ignored."""
    labels = torch.randint(0, 3, (2, 5, 7))
    labels[torch.rand(2, 5, 7) < 0.1] = 255
    return torch.randn(2, K, 5, 7, dtype=torch.float64), labels


def test_a_weighted_sum_over_outputs_of_their_weights(scene) -> None:
    """DeepLab v2's four equal losses, PSPNet's auxiliary one times 0.4."""
    logits, labels = scene
    loss = WeightedSum([(CrossEntropy(), 1.0), (Dice(), 0.5)])
    one = CrossEntropy()(logits, labels) + 0.5 * Dice()(logits, labels)
    total = training_loss([(logits, 1.0), (logits, 0.4)], labels, loss)
    assert total.item() == pytest.approx(1.4 * one.item(), rel=1e-5)


def test_downsampled_labels() -> None:
    """At the corners' grid of Caffe the logits at every eighth pixel are the network's scores themselves."""
    scores = torch.randn(1, K, 6, 4)
    logits = torch.nn.functional.interpolate(scores, (41, 25), mode="bilinear", align_corners=True)
    torch.testing.assert_close(subsample(logits, 8, align_corners=True), scores)
    assert subsample(torch.arange(32).expand(32, 32), 8, align_corners=False)[0].tolist() == [4, 12, 20, 28]
    assert subsample(torch.zeros(1, 3), 8, align_corners=False).shape == (1, 1)


def test_a_loss_stride_subsamples_logits_and_labels() -> None:
    logits, labels = torch.randn(1, K, 17, 17), torch.randint(0, K, (1, 17, 17))
    expected = CrossEntropy()(logits[..., ::4, ::4], labels[..., ::4, ::4])
    assert torch.equal(training_loss([(logits, 1.0)], labels, CrossEntropy(), stride=4, align_corners=True), expected)
