"""Compare further training of a small network without a CRF, with a fixed CRF, and with a trained CRF-RNN.

    python benchmarks/crf_rnn.py CAMVID_FOLDER -o benchmarks/results/crf_rnn.csv

A DeepLab v3 on a narrow MobileNetV2, from random weights, is trained alone on 96 x 96 crops of CamVid's train frames at
half size. Three continuations start from there, with equal steps on the same crops in the same order; they differ only
in the CRF. They train as the release of CRF-RNN does: SGD of momentum 0.99, and learning rates of 10,000 times the
network's for the weights of both kernels and 1,000 times for the compatibility. The release sums the loss over
500 x 500 pixels at 1e-13, which is 2.5e-8 for the mean; with 200 steps for the 20,000 of recipes/crf_rnn_voc.yaml, the
learning rate here is 100 times that.

The network is evaluated on fixed crops of val frames, where the CRF runs 10 updates instead of 5, as in the paper. All
is repeated for several seeds, which draw the initial weights, the crops and dropout.
"""

from __future__ import annotations

import argparse
import copy
import csv
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from atrous.card import Card, Preprocessing
from atrous.data.catalog import open_dataset
from atrous.data.dataset import SegmentationDataset
from atrous.evaluation.confusion import ConfusionMatrix
from atrous.models.base import SegmentationModel, build_from_card
from atrous.models.crf_rnn import ModelWithCRF

PREPROCESSING = Preprocessing()
MULTIPLIERS = {"crf.spatial": 10_000, "crf.bilateral": 10_000, "crf.compatibility": 1_000}
CONTINUATIONS = ("without CRF", "CRF fixed", "CRF learned")
VOID = 255
Frames = list[tuple[np.ndarray, np.ndarray]]
Row = dict[str, Any]


def frames(dataset: SegmentationDataset) -> Frames:
    """Load images and labels at half size, void as 255."""
    samples = []
    for index in range(len(dataset)):
        sample = dataset[index]
        size = sample.image.shape[1] // 2, sample.image.shape[0] // 2
        labels = np.where(sample.labels == dataset.ignore_index, VOID, sample.labels).astype(np.uint8)
        image = cv2.resize(sample.image, size, interpolation=cv2.INTER_AREA)
        samples.append((image, cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)))
    return samples


def crops(data: Frames, count: int, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw random crops, half of them mirrored: (N, 3, size, size) normalized, (N, size, size)."""
    images, masks = [], []
    for index in rng.integers(len(data), size=count):
        image, labels = data[index]
        y, x = (int(rng.integers(extent - size + 1)) for extent in labels.shape)
        step = -1 if rng.random() < 0.5 else 1
        images.append(image[y : y + size, x : x + size][:, ::step])
        masks.append(labels[y : y + size, x : x + size][:, ::step])
    pixels = (np.stack(images).astype(np.float32) - np.float32(PREPROCESSING.mean)) / np.float32(PREPROCESSING.std)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(np.stack(masks)).long()


def loss_of(model: SegmentationModel, image: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(image), labels, ignore_index=VOID)


def train(
    model: SegmentationModel, optimizer: torch.optim.Optimizer, batches: Iterable[tuple[Tensor, Tensor]]
) -> list[float]:
    """Train on batches; returns the losses."""
    model.train()
    losses = []
    for image, labels in batches:
        loss = loss_of(model, image, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.inference_mode()
def evaluate(model: SegmentationModel, image: Tensor, labels: Tensor) -> dict[str, float]:
    """Compute the mean loss, the pixel accuracy and the mIoU."""
    model.eval()
    matrix, total = ConfusionMatrix(model.num_classes, ignore_index=VOID), 0.0
    for one, truth in zip(image.split(8), labels.split(8), strict=True):
        logits = model(one)
        total += F.cross_entropy(logits, truth, ignore_index=VOID, reduction="sum").item()
        matrix.update(truth, logits.argmax(1))
    loss = total / int((labels != VOID).sum())
    return {"held_out_loss": loss, "pixel_accuracy": matrix.pixel_accuracy, "miou": matrix.miou}


def run(seed: int, arguments: argparse.Namespace, classes: Card, data: Frames, others: Frames) -> Iterator[Row]:
    """Train alone, then each continuation; yield the figures of each."""
    batch, size = arguments.batch, arguments.size

    def batches(steps: int, stream: int) -> Iterator[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng((seed, stream))
        return (crops(data, batch, size, rng) for _ in range(steps))

    test = crops(others, arguments.crops, size, np.random.default_rng((seed, 2)))
    torch.manual_seed(seed)
    network = build_from_card(classes)
    adam = torch.optim.Adam(network.parameters(), lr=arguments.lr)
    for name in ("the start", *CONTINUATIONS):
        clock = time.perf_counter()
        model = network if name == "the start" else copy.deepcopy(network)
        if name == "the start":
            losses = train(model, adam, batches(arguments.alone, 0))
        else:
            if name != "without CRF":
                model = ModelWithCRF(model)  # the std of the color kernel comes from the card of the network
                model.crf.requires_grad_(name == "CRF learned")
            multipliers = MULTIPLIERS if name != "without CRF" else {}
            groups = model.parameter_groups(arguments.crf_rnn_lr, lr_mult=multipliers)
            torch.manual_seed(seed)
            losses = train(model, torch.optim.SGD(groups, momentum=0.99), batches(arguments.steps, 1))
        figures = {"train_loss": float(np.mean(losses[-arguments.last :])), **evaluate(model, *test)}
        figures = {key: round(value, 5) for key, value in figures.items()}
        yield {"seed": seed, "run": name, **figures, "seconds": round(time.perf_counter() - clock)}
        if name == "CRF learned":
            for key, value in model.crf.named_parameters():
                parts = value.detach().diagonal() if value.ndim == 2 else value.detach()
                print(f"  {key}: {', '.join(f'{each:.2f}' for each in parts.tolist())}")


def print_table(rows: list[Row]) -> None:
    """Print the mean and the standard deviation over the seeds."""
    figures = [key for key in rows[0] if key not in ("seed", "run", "seconds")]
    print(f"\n{'mean and standard deviation over the seeds':44s}" + "".join(f"{figure:>20s}" for figure in figures))
    for name in dict.fromkeys(row["run"] for row in rows):
        values = [[float(row[figure]) for row in rows if row["run"] == name] for figure in figures]
        cells = (f"{np.mean(each):.4f} +- {np.std(each, ddof=len(each) > 1):.4f}" for each in values)
        print(f"{name:44s}" + "".join(f"{cell:>20s}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--alone", type=int, default=600, help="steps of the network alone")
    parser.add_argument("--steps", type=int, default=200, help="steps of each continuation")
    parser.add_argument("--last", type=int, default=50, help="steps that the mean of the training loss is over")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--crops", type=int, default=48, help="held-out crops")
    parser.add_argument("--lr", type=float, default=1e-3, help="of Adam for the network alone")
    parser.add_argument("--crf-rnn-lr", type=float, default=2.5e-6, help="of SGD in the continuations")
    parser.add_argument("-o", "--out", type=Path, help="a CSV file of all rows")
    arguments = parser.parse_args()
    dataset = open_dataset(f"camvid:{arguments.folder}?split=train")
    card = Card(
        model="deeplab_v3.mobilenet_v2",
        arguments={"width": 0.25, "output_stride": 8},
        classes=dataset.classes,
        colors=dataset.colors,
        preprocessing=PREPROCESSING,
    )
    data, others = frames(dataset), frames(open_dataset(f"camvid:{arguments.folder}?split=val"))
    rows: list[Row] = []
    for seed in arguments.seeds:
        for row in run(seed, arguments, card, data, others):
            rows.append(row)
            cells = (f"{key} {value:.4f}" if isinstance(value, float) else str(value) for key, value in row.items())
            print(", ".join(cells), flush=True)
            if arguments.out is not None:
                arguments.out.parent.mkdir(parents=True, exist_ok=True)
                with arguments.out.open("w", newline="") as file:
                    writer = csv.DictWriter(file, rows[0], lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(rows)
    print_table(rows)


if __name__ == "__main__":
    main()
