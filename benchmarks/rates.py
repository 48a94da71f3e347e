"""Print the atrous rates of the networks of the DeepLab v3 and v3+ recipes, beside the paper's.

    python benchmarks/rates.py

Every convolution larger than 1x1 of a stage that is dilated at output stride 16 or 8 is listed, in order of execution;
"2 x 23" stands for 23 convolutions in sequence with rate 2.
"""

from __future__ import annotations

from itertools import groupby

import torch
from torch import nn

from atrous.models import SegmentationModel, create_model
from atrous.training.recipe import list_recipes, read_recipe

ARCHITECTURES = ("deeplab_v3", "deeplab_v3_plus", "deeplab_v3_cascade")
STRIDES = (16, 8)

STAGES = {
    "backbone.layer3": "conv4_x",
    "backbone.layer4": "conv5_x",
    "backbone.middle": "middle flow",
    "backbone.exit": "exit flow, block 1",
    "backbone.exit2": "exit flow, block 2",
    "aspp": "ASPP",
}
"""Names in the papers; other stages keep the path of their module."""

RESNET = {"conv4_x": ("1 x 23", "2 x 23"), "conv5_x": ("2, 4, 8", "4, 8, 16")}
XCEPTION = {
    "middle flow": ("1 x 48", "2 x 48"),
    "exit flow, block 1": ("1 x 3", "2 x 3"),
    "exit flow, block 2": ("2 x 3", "4 x 3"),
}
ASPP = {"ASPP": ("6, 12, 18", "12, 24, 36")}
PUBLISHED = {
    "resnet101": RESNET | ASPP,
    "resnet101_beta": RESNET | ASPP,
    "xception65": XCEPTION | ASPP,
    "xception71": XCEPTION | ASPP,
}
"""Rates at output strides 16 and 8, by backbone and stage: DeepLab v3 sections 3.2.1 (unit rates times block rate), 3.3
and 4.1, table 5; DeepLab v3+ section 3.2 and TensorFlow DeepLab's Xception, without multi-grid."""


def dilations(model: SegmentationModel) -> dict[str, list[int]]:
    """List the dilations of all convolutions larger than 1x1 of backbone and ASPP, by stage."""
    stages: dict[str, list[int]] = {}
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and max(layer.kernel_size) > 1 and path.startswith(("backbone.", "aspp.")):
            stage = path.split(".")[0] if path.startswith("aspp.") else ".".join(path.split(".")[:2])
            stages.setdefault(STAGES.get(stage, stage), []).append(layer.dilation[0])
    return stages


def format_rates(rates: list[int]) -> str:
    """Format rates in sequence: `2 x 23`, or `2, 4, 8`."""
    runs = [(rate, len(list(run))) for rate, run in groupby(rates)]
    return ", ".join(str(rate) if count == 1 else f"{rate} x {count}" for rate, count in runs)


def networks() -> dict[tuple[str, tuple[tuple[str, str, str], ...]], list[str]]:
    """List the names of the recipes by network: its id, and stage and rates at both output strides."""
    recipes: dict[tuple[str, tuple[tuple[str, str, str], ...]], list[str]] = {}
    for recipe in list_recipes():
        for stage in read_recipe(recipe).stages:
            if stage.model.id.partition(".")[0] not in ARCHITECTURES:
                continue
            with torch.device("meta"):
                model = create_model(stage.model.id, **stage.model.options)
            at16, at8 = (dilations(model.set_output_stride(stride)) for stride in STRIDES)
            dilated = [name for name in at16 if max(at16[name] + at8[name]) > 1]
            rates = tuple((name, format_rates(at16[name]), format_rates(at8[name])) for name in dilated)
            names = recipes.setdefault((stage.model.id, rates), [])
            if recipe not in names:
                names.append(recipe)
    return recipes


def rows() -> list[tuple[str, ...]]:
    """List recipes, stage, and rates here and as published at both output strides."""
    result = []
    for (model, rates), recipes in networks().items():
        published = PUBLISHED.get(model.partition(".")[2], {})
        label = ", ".join(f"`{recipe}`" for recipe in recipes)
        for stage, at16, at8 in rates:
            paper16, paper8 = published.get(stage, ("none", "none"))
            result.append((label, stage, at16, paper16, at8, paper8))
            label = ""
    return result


def table() -> str:
    """Format the rows as a Markdown table."""
    head = ("recipes", "convolutions", "stride 16", "*published*", "stride 8", "*published*")
    lines = [head, ("---",) * len(head), *rows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(table())
