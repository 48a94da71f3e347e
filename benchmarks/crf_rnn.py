"""Compare further training of a small network without a CRF, with a fixed CRF, and with a trained CRF-RNN.

    python benchmarks/crf_rnn.py CAMVID_FOLDER

A DeepLab v3 on a narrow MobileNetV2, from random weights, is trained alone on 96 x 96 crops of CamVid's train frames at
half size. Three continuations start from there, with equal steps on the same crops in the same order; they differ only
in the CRF. Losses are means over the last steps, and over fixed crops of val frames in evaluation mode, where the CRF
runs 10 updates instead of 5, as in the paper.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from atrous import create_model
from atrous.data.catalog import open_dataset
from atrous.models.base import SegmentationModel
from atrous.models.crf_rnn import ModelWithCRF

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
VOID = 255
Frames = list[tuple[np.ndarray, np.ndarray]]


def frames(folder: Path, split: str) -> tuple[Frames, int]:
    """Load images and labels at half size, void as 255; returns them and the number of classes."""
    dataset = open_dataset(f"camvid:{folder}?split={split}")
    samples = []
    for index in range(len(dataset)):
        sample = dataset[index]
        size = sample.image.shape[1] // 2, sample.image.shape[0] // 2
        labels = np.where(sample.labels == dataset.ignore_index, VOID, sample.labels).astype(np.uint8)
        image = cv2.resize(sample.image, size, interpolation=cv2.INTER_AREA)
        samples.append((image, cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)))
    return samples, len(dataset.classes)


def crops(data: Frames, count: int, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw random crops, half of them mirrored: (N, 3, size, size) normalized, (N, size, size)."""
    images, masks = [], []
    for index in rng.integers(len(data), size=count):
        image, labels = data[index]
        y, x = (int(rng.integers(extent - size + 1)) for extent in labels.shape)
        step = -1 if rng.random() < 0.5 else 1
        images.append(image[y : y + size, x : x + size][:, ::step])
        masks.append(labels[y : y + size, x : x + size][:, ::step])
    pixels = (np.stack(images).astype(np.float32) - np.float32(MEAN)) / np.float32(STD)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(np.stack(masks)).long()


def loss_of(model: SegmentationModel, image: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(image), labels, ignore_index=VOID)


def train(
    model: SegmentationModel, data: Frames, steps: int, batch: int, size: int, groups: list[dict], seed: int
) -> list[float]:
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(groups)
    model.train()
    losses = []
    for _ in range(steps):
        loss = loss_of(model, *crops(data, batch, size, rng))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.inference_mode()
def held_out(model: SegmentationModel, image: Tensor, labels: Tensor) -> tuple[float, float]:
    """Compute the mean loss and the pixel accuracy."""
    model.eval()
    total = right = 0.0
    for one, truth in zip(image.split(8), labels.split(8), strict=True):
        logits = model(one)
        total += F.cross_entropy(logits, truth, ignore_index=VOID, reduction="sum").item()
        right += int((logits.argmax(1) == truth).sum())
    valid = int((labels != VOID).sum())
    return total / valid, right / valid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--alone", type=int, default=300, help="steps of the network alone")
    parser.add_argument("--steps", type=int, default=150, help="steps of each continuation")
    parser.add_argument("--last", type=int, default=50, help="steps that the mean of the training loss is over")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--crops", type=int, default=48, help="held-out crops")
    parser.add_argument("--lr", type=float, default=1e-3, help="of the network; a third of it in the continuations")
    parser.add_argument("--crf-lr", type=float, default=3e-2, help="of the CRF")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    seed, batch, size = arguments.seed, arguments.batch, arguments.size

    torch.manual_seed(seed)
    data, classes = frames(arguments.folder, "train")
    others, _ = frames(arguments.folder, "val")
    test = crops(others, arguments.crops, size, np.random.default_rng(seed + 2))
    network = create_model("deeplab_v3.mobilenet_v2", num_classes=classes, width=0.25)
    network.set_output_stride(8)
    clock = time.perf_counter()
    groups = [{"params": list(network.parameters()), "lr": arguments.lr}]
    losses = train(network, data, arguments.alone, batch, size, groups, seed)
    loss, accuracy = held_out(network, *test)
    print(f"{arguments.alone} steps alone, then {arguments.steps}; {batch} crops of {size} x {size}, seed {seed}")
    print(f"{'':24s}{'train loss':>11s}{'held out':>10s}{'pixel accuracy':>16s}{'seconds':>9s}")

    def report(name: str, losses: list[float], loss: float, accuracy: float, since: float) -> None:
        mean = np.mean(losses[-arguments.last :])
        print(f"{name:24s}{mean:11.4f}{loss:10.4f}{accuracy:16.2%}{time.perf_counter() - since:9.0f}", flush=True)

    report("the start", losses, loss, accuracy, clock)
    for name in ("without CRF", "CRF fixed", "CRF learned"):
        clock = time.perf_counter()
        model = copy.deepcopy(network)
        groups = [{"params": list(model.parameters()), "lr": arguments.lr / 3}]
        if name != "without CRF":
            model = ModelWithCRF(model, std=STD)
            model.crf.requires_grad_(name == "CRF learned")
            groups += [{"params": list(model.crf.parameters()), "lr": arguments.crf_lr}]
        losses = train(model, data, arguments.steps, batch, size, groups, seed + 1)
        report(name, losses, *held_out(model, *test), clock)
        if name == "CRF learned":
            for key, value in model.crf.named_parameters():
                parts = value.detach().diagonal() if value.ndim == 2 else value.detach()
                print(f"  {key}: {', '.join(f'{each:.2f}' for each in parts.tolist())}")


if __name__ == "__main__":
    main()
