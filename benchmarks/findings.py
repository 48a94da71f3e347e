"""DeepLab v3's findings in small: batch normalisation, full-size logits, output stride. One short training for each.

    python benchmarks/findings.py --data camvid:/data/CamVid -o runs/findings [--steps 300]

Every training is the same but for what its row says: DeepLab v3 on EfficientNet-Lite0 with ImageNet weights, CamVid at
480 x 360, AdamW, poly. What was trained before in the folder is not trained again, and what was stopped goes on.

Source: DeepLab v3, section 4.1: output stride (tables 1 and 2), fine-tuning batch normalisation and up-sampling logits
(table 8).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from atrous import Segmenter
from atrous.data.catalog import open_dataset
from atrous.evaluation import evaluate
from atrous.training import read_recipe, train
from atrous.training.record import read_rows

BASE = (
    "model=deeplab_v3.efficientnet_lite0",
    "backbone_weights=imagenet",
    "preprocessing={mean: [127, 127, 127], std: [128, 128, 128]}",
    "optimiser={name: adamw, lr: 3.0e-4, weight_decay: 0.01, head: 5}",
    "warm_up.steps=50",
    "batch=8",
    "workers=1",
    "precision=bf16-mixed",
    "channels_last=true",
    "evaluate.every=0",
    "checkpoint_every=50",
)
SETTINGS = {
    "output stride 16, statistics learnt, logits up-sampled": (),
    "batch normalisation frozen": ("batch_norm=frozen",),
    "labels down-sampled by 16": ("loss_stride=16",),
    "output stride 8": ("model.options.output_stride=8",),
    "output stride 32": ("model.options.output_stride=32",),
}
ELSEWHERE = {"trained at 16, run at 8": (0, 8), "trained at 32, run at 16": (4, 16)}
"""Rows of `SETTINGS` whose networks are also run at another stride."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="camvid:FOLDER")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    for number, (title, changes) in enumerate(SETTINGS.items()):
        recipe = read_recipe("camvid_baseline", [*BASE, f"steps={arguments.steps}", *changes]).at([arguments.data])
        folder = arguments.out / str(number)
        if not (folder / "last.safetensors").is_file():
            train(recipe, folder, resume=folder.is_dir(), on_message=print)
        row = read_rows(folder / "evaluations.csv")[-1]
        seconds = sum(float(step["seconds"]) for step in read_rows(folder / "log.csv")) / arguments.steps
        tell(title, float(row["miou"]), float(row["pixel_accuracy"]), f"{seconds:.2f} s a step")
    data = open_dataset(f"{arguments.data}?split=val")
    for title, (number, stride) in ELSEWHERE.items():
        segmenter = Segmenter.load(arguments.out / str(number) / "last.safetensors")
        segmenter.model.set_output_stride(stride)
        matrix = evaluate(segmenter, data, boundaries=False).confusion
        tell(title, matrix.miou, matrix.pixel_accuracy, "")


def tell(title: str, miou: float, accuracy: float, more: str) -> None:
    print(f"{title:56s} mIoU {100 * miou:5.2f}  pixel accuracy {100 * accuracy:5.2f}  {more}", flush=True)


if __name__ == "__main__":
    main()
