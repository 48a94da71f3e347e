"""Plan of a stage before it is trained: parameters, images, steps and an estimate of memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from atrous.analysis.counts import count_parameters
from atrous.analysis.memory import saved_bytes
from atrous.data.dataset import SegmentationDataset
from atrous.errors import AtrousError, describe_unexpected
from atrous.training.config import StageConfig
from atrous.training.recipe import Recipe
from atrous.training.stage import build_model, make_optimizer

OPTIMIZER_COPIES = {"sgd": 1, "adam": 2, "adamw": 2}
"""Tensors of a parameter's size that an optimizer keeps."""


@dataclass(frozen=True)
class Plan:
    """Figures of a stage; `memory` is an estimate of the peak per process, in bytes."""

    stage: StageConfig
    parameters: int
    trainable: int
    images: int
    val_images: int
    steps: int
    crop: tuple[int, int]
    memory: int

    @property
    def epochs(self) -> float:
        """Number of passes over the training images."""
        return self.steps * self.stage.batch / self.images


def make_plan(
    recipe: Recipe, stage: StageConfig, data: SegmentationDataset, val: SegmentationDataset | None, processes: int = 1
) -> Plan:
    """Build the network of a stage on the meta device, and trace one image through it."""
    with torch.device("meta"):
        model = build_model(recipe, stage, data)
    height, width = crop_size(stage) or data[0].labels.shape
    model.freeze(*stage.freeze)
    make_optimizer(model, stage)  # report an unknown part of the network now
    if stage.evaluate.output_stride is not None:  # report an impossible stride now
        stride = model.output_stride
        model.set_output_stride(stage.evaluate.output_stride).set_output_stride(stride)
    values = list(model.parameters())
    trainable = sum(value.numel() for value in values if value.requires_grad)
    micro_batch = max(1, stage.batch // (stage.accumulate * processes))
    try:
        activations = micro_batch * saved_bytes(model, height, width)
    except (OverflowError, RuntimeError, TypeError) as error:
        raise AtrousError(
            f"stage '{stage.name}': the network does not take images of {width} x {height} "
            f"({describe_unexpected(error)}): choose another crop."
        ) from error
    if stage.precision != "32-true":
        activations //= 2
    copies = 1 + OPTIMIZER_COPIES[stage.optimizer.name] + bool(stage.ema)
    return Plan(
        stage,
        count_parameters(model),
        trainable,
        len(data),
        0 if val is None else min(len(val), stage.evaluate.max_images or len(val)),
        stage.count_steps(len(data)),
        (height, width),
        4 * (sum(value.numel() for value in values) + copies * trainable) + activations,
    )


def crop_size(stage: StageConfig) -> tuple[int, int] | None:
    """Get the height and width of the augmented images, if a crop or resize determines them."""
    size = None
    for entry in stage.transforms:
        for name, arguments in entry.items():
            if name in ("crop", "margin_crop", "resize") and {"height", "width"} <= arguments.keys():
                size = int(arguments["height"]), int(arguments["width"])
    return size


def summarize(stage: StageConfig) -> Mapping[str, str]:
    """Summarize the most important settings of a stage for printing."""
    optimizer = stage.optimizer
    rates = [f"{optimizer.lr:g} {next(iter(stage.schedule))}"]
    rates += [f"{part} x{multiplier:g}" for part, multiplier in optimizer.lr_mult.items()]
    stride = f", stride {stage.loss_stride}" if stage.loss_stride > 1 else ""
    augmentation = [next(iter(entry)) for entry in stage.transforms]
    if stage.class_mix:
        augmentation.append(f"class_mix {stage.class_mix:g}")
    return {
        "augmentation": ", ".join(augmentation) or "none",
        "optimizer": f"{optimizer.name}, lr {', '.join(rates)}, weight decay {optimizer.weight_decay:g}",
        "loss": " + ".join(stage.loss) + stride,
        "batch normalization": stage.batch_norm,
    }
