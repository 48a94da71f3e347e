"""Every network can overfit two crops of CamVid at a small width. `-s` prints the number of steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from atrous import create_model, list_models
from atrous.layers.norm import recalibrate_batch_norm

WIDTH = 0.125
SIDE = 129
CROPS = (("0016E5_05820", 216, 0), ("0001TP_006930", 24, 216))  # pavement and building; sky, building and car
NUM_CLASSES = 11
VOID = 11
MAX_STEPS, EVAL_INTERVAL = 600, 20
TARGET_ACCURACY = 0.95


@pytest.fixture(scope="module")
def crops(shared_data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (2, 3, 129, 129) around zero and labels (2, 129, 129), no class of which covers half the pixels."""
    images, labels = [], []
    for name, top, left in CROPS:
        box = (left, top, left + SIDE, top + SIDE)
        with Image.open(shared_data / "camvid" / "train" / f"{name}.jpg") as image:
            images.append(np.array(image.crop(box)).transpose(2, 0, 1) / 64.0 - 2.0)
        with Image.open(shared_data / "camvid" / "trainannot" / f"{name}.png") as label:
            labels.append(np.array(label.crop(box)))
    truth = torch.from_numpy(np.stack(labels)).long()
    assert truth.flatten().bincount().max() < 0.5 * truth.numel()
    return torch.from_numpy(np.stack(images)).float(), truth


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_two_crops_are_overfitted(name: str, crops: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, truth = crops
    model = create_model(name, width=WIDTH, num_classes=NUM_CLASSES).train()
    optimizer = torch.optim.Adam(model.parameter_groups(1e-3))
    pixel_accuracy = 0.0
    for step in range(1, MAX_STEPS + 1):
        optimizer.zero_grad()
        losses = [
            weight * F.cross_entropy(logits, truth, ignore_index=VOID)
            for logits, weight in model.training_outputs(images)
        ]
        torch.stack(losses).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % EVAL_INTERVAL == 0:
            pixel_accuracy = accuracy(model, images, truth)
            if pixel_accuracy >= TARGET_ACCURACY:
                break
    print(f"\n{name:32s} {step:4d} steps  {100 * pixel_accuracy:5.1f} %", end="")
    assert pixel_accuracy >= TARGET_ACCURACY


def accuracy(model: torch.nn.Module, images: torch.Tensor, truth: torch.Tensor) -> float:
    """Compute pixel accuracy in evaluation mode without void, after recalibrating batch normalization."""
    recalibrate_batch_norm(model, [images])
    model.eval()
    with torch.no_grad():
        correct = model(images).argmax(1) == truth
    model.train()
    return correct[truth != VOID].float().mean().item()
