"""What a training will take, told before it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from atrous.analysis.counts import count_parameters
from atrous.data.dataset import SegmentationDataset
from atrous.training.build import build, count_steps
from atrous.training.recipe import Recipe
from atrous.training.stage import Stage
from atrous.training.task import freeze

OPTIMIZER_COPIES = {"sgd": 1, "adam": 2, "adamw": 2}
"""Tensors of a parameter's size that an optimizer keeps."""


@dataclass(frozen=True)
class Plan:
    """A stage in figures; `memory` is an estimate of a process's peak in bytes."""

    stage: Stage
    parameters: int
    learning: int
    images: int
    val_images: int
    steps: int
    crop: tuple[int, int]
    memory: int

    @property
    def epochs(self) -> float:
        return self.steps * self.stage.batch / self.images


def make_plan(
    recipe: Recipe, stage: Stage, data: SegmentationDataset, val: SegmentationDataset | None, *, processes: int = 1
) -> Plan:
    """Build the network of a stage without memory for its parameters, and follow one image through it."""
    with torch.device("meta"):
        model = build(recipe, stage, data)
    height, width = crop_size(stage) or data[0].labels.shape
    freeze(model, stage.freeze)
    if stage.evaluate.output_stride is not None:
        model.set_output_stride(stage.evaluate.output_stride).set_output_stride(model.output_stride)
    values = list(model.parameters())
    learning = sum(value.numel() for value in values if value.requires_grad)
    portion = max(1, stage.batch // (stage.accumulate * processes))
    activations = portion * saved_bytes(model, height, width)
    if stage.precision != "32-true":
        activations //= 2
    copies = 1 + OPTIMIZER_COPIES[stage.optimizer.name] + bool(stage.ema)
    return Plan(
        stage,
        count_parameters(model),
        learning,
        len(data),
        0 if val is None else len(val),
        count_steps(stage, len(data)),
        (height, width),
        4 * (sum(value.numel() for value in values) + copies * learning) + activations,
    )


def crop_size(stage: Stage) -> tuple[int, int] | None:
    """Height and width of what the transforms end with, where they say it."""
    size = None
    for entry in stage.transforms:
        for name, arguments in entry.items():
            if name in ("crop", "resize") and {"height", "width"} <= arguments.keys():
                size = int(arguments["height"]), int(arguments["width"])
    return size


def saved_bytes(model: nn.Module, height: int, width: int) -> int:
    """Bytes of what the forward pass of one image keeps for the backward pass, parameters not counted.

    The model lies on the "meta" device, where nothing is computed.
    """
    seen: dict[tuple[Any, ...], int] = {}
    parameters = {id(value) for value in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if id(tensor) not in parameters:
            storage = tensor.untyped_storage()
            seen[(storage._cdata,)] = storage.nbytes()
            alive.append(tensor)  # so that no other tensor gets its place, and its identity
        return tensor

    alive: list[Tensor] = []
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.training_outputs(torch.empty(1, 3, height, width, device="meta"))  # type: ignore[operator]
    return sum(seen.values())


def with_unit(bytes_: int) -> str:
    """`1.5 GB`."""
    return f"{bytes_ / 1e9:.1f} GB" if bytes_ >= 1e9 else f"{bytes_ / 1e6:.0f} MB"


def ordinal(number: int) -> str:
    """`2nd`, `3rd`, `8th`."""
    teens = number % 100 in (11, 12, 13)
    return f"{number}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def settings(stage: Stage) -> Mapping[str, str]:
    """The settings of a stage that matter most, as they are printed."""
    how = stage.optimizer
    ((schedule, _),) = stage.schedule.items()
    rates = [f"{how.lr:g} {schedule}"]
    rates += [f"head x{how.head:g}"] if how.head != 1 else []
    rates += [f"biases x{how.bias:g}"] if how.bias != 1 else []
    return {
        "optimizer": f"{how.name}, lr {', '.join(rates)}, decay {how.weight_decay:g}",
        "loss": " + ".join(stage.loss)
        + (f", every {ordinal(stage.loss_stride)} pixel" if stage.loss_stride > 1 else ""),
        "batch normalization": stage.batch_norm,
    }
