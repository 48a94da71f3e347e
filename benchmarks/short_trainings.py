"""Tables of short trainings on CamVid: DeepLab v3's findings at small scale, and all networks with the same budget.

    python benchmarks/short_trainings.py findings --data camvid:/data/CamVid -o runs/findings [--steps 300]
    python benchmarks/short_trainings.py networks --data camvid:/data/CamVid -o runs/networks [--steps 300]

The trainings of a table differ only in the overrides of their rows: `camvid_baseline` with the overrides below, batches
of 8 crops of 320 x 240, AdamW, poly. Finished trainings in the folder are not repeated, interrupted ones are resumed.
`findings` is DeepLab v3 on EfficientNet-Lite0 with ImageNet weights; `networks` are a quarter as wide as in their
papers and start from random weights, VGG-16 and U-Net with batch normalization.

Source: DeepLab v3: fine-tuning batch normalization and upsampling logits (table 8), output strides (table 10).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from atrous import Segmenter
from atrous.data.catalog import open_dataset
from atrous.evaluation import evaluate
from atrous.files import read_csv
from atrous.training import read_recipe, train

BUDGET = (
    "warmup.steps=50",
    "batch=8",
    "workers=1",
    "precision=bf16-mixed",
    "channels_last=true",
    "evaluate.every=0",
    "checkpoint_every=50",
)


@dataclass(frozen=True)
class Table:
    """Trainings by title with their overrides, and trained networks that are evaluated at another output stride."""

    steps: int
    shared: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]
    other_strides: dict[str, tuple[str, int]] = field(default_factory=dict)


def narrow(model: str, *more: str) -> tuple[str, ...]:
    return (f"model={model}", "model.options.width=0.25", *more)


VGG = "model.options.backbone_options={batch_norm: true}"

TABLES = {
    "findings": Table(
        300,
        (
            "model=deeplab_v3.efficientnet_lite0",
            "backbone_weights=imagenet",
            "optimizer={name: adamw, lr: 3.0e-4, weight_decay: 0.01, lr_mult: {head: 5}}",
        ),
        {
            "output stride 16, batch normalization trained, logits upsampled": (),
            "batch normalization frozen": ("batch_norm=frozen",),
            "labels downsampled by 16": ("loss_stride=16",),
            "output stride 8": ("model.options.output_stride=8",),
            "output stride 32": ("model.options.output_stride=32",),
        },
        {
            "trained at 16, evaluated at 8": ("output stride 16, batch normalization trained, logits upsampled", 8),
            "trained at 32, evaluated at 16": ("output stride 32", 16),
        },
    ),
    "networks": Table(
        300,
        ("optimizer={name: adamw, lr: 1.0e-3, weight_decay: 0.01}",),
        {
            "FCN-8s, VGG-16": narrow("fcn_8s_at_once.vgg16", VGG),
            "SegNet, VGG-16": narrow("segnet.vgg16"),
            "U-Net": narrow("unet.padded", "model.options.batch_norm=true"),
            "DeepLab LargeFOV, VGG-16": narrow("deeplab_v1.vgg16", VGG),
            "RefineNet, ResNet-50": narrow("refinenet.resnet50"),
            "PSPNet, ResNet-50": narrow("pspnet.resnet50"),
            "GCN, ResNet-50": narrow("gcn.resnet50"),
            "DeepLab v3, ResNet-50": narrow("deeplab_v3.resnet50"),
            "DeepLab v3+, ResNet-50": narrow("deeplab_v3_plus.resnet50"),
        },
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--data", required=True, help="camvid:FOLDER")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--steps", type=int)
    arguments = parser.parse_args()
    table = TABLES[arguments.table]
    steps = arguments.steps or table.steps
    folders = {title: arguments.out / str(number) for number, title in enumerate(table.rows)}
    for title, changes in table.rows.items():
        overrides = [*BUDGET, f"steps={steps}", *table.shared, *changes]
        recipe = read_recipe("camvid_baseline", overrides).with_data([arguments.data])
        folder = folders[title]
        if not (folder / "last.safetensors").is_file():
            train(recipe, folder, resume=folder.is_dir(), on_message=print)
        row = read_csv(folder / "evaluations.csv")[-1]
        seconds = sum(float(step["seconds"]) for step in read_csv(folder / "log.csv")) / steps
        print_row(title, float(row["miou"]), float(row["pixel_accuracy"]), f"{seconds:.2f} s per step")
    data = open_dataset(f"{arguments.data}?split=val")
    for title, (trained, stride) in table.other_strides.items():
        segmenter = Segmenter.load(folders[trained] / "last.safetensors")
        segmenter.set_output_stride(stride)
        matrix = evaluate(segmenter, data, boundaries=False).confusion
        print_row(title, matrix.miou, matrix.pixel_accuracy, "")


def print_row(title: str, miou: float, accuracy: float, more: str) -> None:
    print(f"{title:56s} mIoU {100 * miou:5.2f}  pixel accuracy {100 * accuracy:5.2f}  {more}", flush=True)


if __name__ == "__main__":
    main()
