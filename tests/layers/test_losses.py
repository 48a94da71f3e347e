"""Losses against formulas written down a second time, pixel by pixel; and what they do where there is nothing."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from atrous import AtrousError
from atrous.layers.losses import (
    CrossEntropy,
    Dice,
    Focal,
    Lovasz,
    OHEMCrossEntropy,
    WeightedSum,
    check_class_weights,
)

K = 4
LOSSES = {
    "cross_entropy": CrossEntropy,
    "ohem": OHEMCrossEntropy,
    "focal": Focal,
    "dice": Dice,
    "lovasz": Lovasz,
}
WEIGHTS = (0.5, 2.0, 1.0, 7.3614)


@pytest.fixture
def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels with class 3 absent and a tenth of the pixels ignored."""
    logits = torch.randn(2, K, 5, 7, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 3, (2, 5, 7))
    labels[torch.rand(2, 5, 7) < 0.1] = 255
    return logits, labels


def by_pixel(logits: torch.Tensor, labels: torch.Tensor) -> list[tuple[list[float], int]]:
    """Probabilities and label of each valid pixel."""
    found = []
    for n, i, j in itertools.product(*map(range, labels.shape)):
        if (label := int(labels[n, i, j])) != 255:
            scores = [math.exp(value) for value in logits[n, :, i, j].tolist()]
            found.append(([score / sum(scores) for score in scores], label))
    return found


def test_cross_entropy_is_the_mean_over_valid_pixels(scene) -> None:
    pixels = by_pixel(*scene)
    plain = sum(-math.log(p[y]) for p, y in pixels)
    assert CrossEntropy()(*scene).item() == pytest.approx(plain / len(pixels))
    assert CrossEntropy(reduction="sum")(*scene).item() == pytest.approx(plain)
    weighted = sum(-WEIGHTS[y] * math.log(p[y]) for p, y in pixels)
    assert CrossEntropy(WEIGHTS)(*scene).item() == pytest.approx(weighted / len(pixels))
    smooth = sum(-0.9 * math.log(p[y]) - 0.1 / K * sum(map(math.log, p)) for p, y in pixels)
    assert CrossEntropy(label_smoothing=0.1)(*scene).item() == pytest.approx(smooth / len(pixels))


def test_focal(scene) -> None:
    pixels = by_pixel(*scene)
    costs = [-((1 - p[y]) ** 2) * math.log(p[y]) for p, y in pixels]
    assert Focal()(*scene).item() == pytest.approx(sum(costs) / len(pixels))
    weighted = sum(WEIGHTS[y] * cost for cost, (_, y) in zip(costs, pixels, strict=True))
    assert Focal(class_weights=WEIGHTS)(*scene).item() == pytest.approx(weighted / len(pixels))
    assert Focal(gamma=0)(*scene).item() == pytest.approx(CrossEntropy()(*scene).item())


def test_dice(scene) -> None:
    pixels = by_pixel(*scene)
    costs = []
    for k in range(3):
        overlap = sum(p[k] for p, y in pixels if y == k)
        costs.append(1 - 2 * overlap / (sum(p[k] for p, _ in pixels) + sum(y == k for _, y in pixels)))
    assert Dice()(*scene).item() == pytest.approx(sum(costs) / 3)


def test_lovasz_is_the_extension_of_the_jaccard_loss(scene) -> None:
    """The sum over descending errors m_i of m_i (J(first i) - J(first i - 1)), J the Jaccard loss of some errors."""
    pixels = by_pixel(*scene)
    costs = []
    for k in range(3):
        errors = sorted(((abs((y == k) - p[k]), i) for i, (p, y) in enumerate(pixels)), reverse=True)
        truth = {i for i, (_, y) in enumerate(pixels) if y == k}
        cost, before, wrong = 0.0, 0.0, set()
        for error, i in errors:
            wrong.add(i)
            jaccard = len(wrong) / len(truth | wrong)
            cost += error * (jaccard - before)
            before = jaccard
        costs.append(cost)
    assert Lovasz()(*scene).item() == pytest.approx(sum(costs) / 3)


def test_lovasz_of_hard_predictions_is_one_minus_iou() -> None:
    prediction, labels = torch.randint(0, 3, (2, 1, 6, 6))
    logits = 200.0 * torch.nn.functional.one_hot(prediction, K).movedim(-1, 1).double()
    ious = [
        ((prediction == k) & (labels == k)).sum() / ((prediction == k) | (labels == k)).sum() for k in labels.unique()
    ]
    assert Lovasz()(logits, labels).item() == pytest.approx(1 - sum(ious).item() / len(ious))


@pytest.mark.parametrize(("step", "share"), [(0, 1.0), (50, 0.625), (100, 0.25), (1000, 0.25)])
def test_ohem(scene, step: int, share: float) -> None:
    logits, labels = scene
    costs = sorted((-math.log(p[y]) for p, y in by_pixel(logits, labels)), reverse=True)
    chosen = costs[: int(share * labels.numel())]  # ignored pixels count in the share, and cost nothing
    mining = OHEMCrossEntropy(fraction=0.25, warmup_steps=100)
    assert mining.count(labels.numel(), step) == int(share * labels.numel())
    assert mining(logits, labels, step).item() == pytest.approx(sum(chosen) / len(chosen))


def test_all_pixels_as_hard_ones_are_the_cross_entropy(scene) -> None:
    assert OHEMCrossEntropy(fraction=1.0)(*scene).item() == pytest.approx(CrossEntropy()(*scene).item())


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_valid_costs_nothing_and_keeps_the_graph(name: str) -> None:
    logits = torch.randn(2, K, 3, 3, requires_grad=True)
    loss = LOSSES[name]()(logits, torch.full((2, 3, 3), 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.eq(0).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 2)])
def test_single_pixels_single_classes_and_certainty(name: str, shape: tuple[int, int, int]) -> None:
    labels = torch.ones(shape, dtype=torch.long)
    for sure in (1e4, -1e4):
        logits = torch.zeros(shape[0], K, *shape[1:])
        logits[:, 1] = sure
        logits.requires_grad_()
        loss = LOSSES[name]()(logits, labels)
        loss.backward()
        assert loss.isfinite()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
        assert (loss.item() < 1e-6) == (sure > 0)


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_change_nothing(name: str, scene) -> None:
    logits, labels = scene
    torch.autograd.backward(LOSSES[name](*([] if name != "ohem" else [0.1]))(logits, labels))
    assert logits.grad is not None
    assert logits.grad.movedim(1, -1)[labels == 255].eq(0).all()


@pytest.mark.parametrize("name", ["cross_entropy", "ohem", "focal"])
def test_weights_of_another_number_of_classes(name: str, scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checked before training by itself, where the processes of an earlier stage reduce tensors on CUDA alone."""
    loss = LOSSES[name](class_weights=(1, 2, 3))
    with pytest.raises(AtrousError, match="3 class weights for 4 classes"):
        loss(*scene)

    def fail(tensor: torch.Tensor) -> None:
        raise RuntimeError(f"No backend type associated with device type {tensor.device.type}")

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", fail)
    with pytest.raises(AtrousError, match="3 class weights for 4 classes"):
        check_class_weights(WeightedSum([(Dice(), 0.5), (loss, 1.0)]), K)
    check_class_weights(WeightedSum([(Dice(), 0.5), (loss, 1.0)]), 3)
