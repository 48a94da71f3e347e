"""Dilate networks of timm and train DeepLab v3+ on them for a few steps.

    python benchmarks/timm_backbones.py DATA [--steps 60]

DATA is a folder with CamVid in `camvid`. Weights are random. For each network: the largest difference of the features
at output stride 32 from the same pixels at 16 and at 8, in standard deviations of the features, with batch statistics
and layer scales of a trained network; and the loss of a training, as the mean of its first and of its last ten steps.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import nn

from atrous.backbones import create_backbone
from atrous.files import read_csv
from atrous.training import train
from atrous.training.recipe import make_recipe

NETWORKS = (
    "resnet18",
    "regnety_002",
    "efficientnet_b0",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_small",
    "convnext_atto",
)


@torch.no_grad()
def differences(name: str) -> list[float]:
    """Compare the features at output strides 16 and 8 with those at 32."""
    torch.manual_seed(0)
    backbone = create_backbone(f"timm:{name}").eval()
    for layer in backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    for parameter in backbone.parameters():
        if parameter.abs().max() < 1e-3:  # layer scales and residuals that begin at zero
            nn.init.normal_(parameter, std=0.1)
    image = torch.randn(2, 3, 161, 129)
    strided = backbone(image)[-1]
    result = []
    for stride in (16, 8):
        backbone.set_output_stride(stride)
        step = 32 // stride
        difference = (backbone(image)[-1][..., ::step, ::step] - strided).abs().max() / strided.std()
        result.append(difference.item())
    return result


def losses(name: str, camvid: Path, steps: int) -> list[float]:
    """Train DeepLab v3+ on CamVid and return the loss of each step."""
    recipe = make_recipe(
        {
            "name": name,
            "model": {"id": "deeplab_v3_plus", "options": {"backbone": f"timm:{name}"}},
            "data": {"train": f"camvid:{camvid}?split=train"},
            "transforms": [{"crop": {"height": 193, "width": 193}}, "flip"],
            "optimizer": {"name": "adamw", "lr": 0.0005},
            "steps": steps,
            "batch": 4,
            "workers": 0,
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        rows = read_csv(train(recipe, Path(folder) / "run").folder / "log.csv")
    return [float(row["loss"]) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    for name in NETWORKS:
        at_16, at_8 = differences(name)
        loss = losses(name, arguments.data / "camvid", arguments.steps)
        first, last = (sum(part) / len(part) for part in (loss[:10], loss[-10:]))
        print(f"{name:24} {at_16:.1e} at 16, {at_8:.1e} at 8; loss {first:.2f} -> {last:.2f}", flush=True)


if __name__ == "__main__":
    main()
