"""Set-up of a stage: data, network, optimizer, learning rate, batch and input normalization, moving average."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from atrous.card import Card, Measurement
from atrous.data.dataset import SegmentationDataset
from atrous.errors import AtrousError
from atrous.layers.losses import Loss, check_class_weights
from atrous.layers.norm import BatchNorm2d, folded_batch_norms, set_batch_norm, unfold_batch_norm
from atrous.models import SegmentationModel, build_from_card
from atrous.training.config import StageConfig
from atrous.training.ema import EMA, averaged_model
from atrous.training.fsdp import load_optimizer_state
from atrous.training.initialize import CardAndState, initial_images, initialize_stage
from atrous.training.loader import add_trained_images, make_loader, open_stage_data
from atrous.training.recipe import Recipe
from atrous.training.run_dir import RECIPE, damaged_checkpoint_error
from atrous.training.schedules import Schedule

if TYPE_CHECKING:
    from lightning_fabric import Fabric

OnMessage = Callable[[str], None]

UNFOLD_IMAGES = 32
"""The number of training images that give folded batch normalization its statistics."""
MIN_BATCH = 8
"""Images per batch normalization below which its statistics are too noisy: DeepLab v3, table 9."""


@dataclass
class StageRun:
    """A stage in training: what the loop uses, and the step, metrics and best mIoU it updates."""

    recipe: Recipe
    number: int
    folder: Path
    fabric: Fabric
    data: SegmentationDataset
    val: SegmentationDataset | None
    model: SegmentationModel
    network: Any
    """The model wrapped by Fabric; `network.training_outputs(images)` runs it under DDP or FSDP."""
    optimizer: torch.optim.Optimizer
    ema: EMA | None
    loss: Loss
    schedule: Schedule
    seed: int
    steps: int
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best_miou: float = -1.0
    stale: int = 0
    """Number of validations since the best one."""

    @property
    def finished(self) -> bool:
        """Whether the stage is at its last step, or was stopped early."""
        return self.step == self.steps or 0 < self.config.patience <= self.stale

    @property
    def config(self) -> StageConfig:
        """The configuration of the stage."""
        return self.recipe.stages[self.number]

    @property
    def card(self) -> Card:
        """The card of the weights, with the metrics of the last evaluation."""
        assert self.model.card is not None
        if not self.metrics or self.val is None:
            return self.model.card
        images = self.config.evaluate.max_images
        data = f"{self.val.name} {self.val.split}" + (f", the first {images} images" if images else "")
        command = f"atrous train {self.folder / RECIPE}"
        measured = tuple(
            Measurement(name=name, value=round(100 * self.metrics[key], 2), data=data, command=command)
            for key, name in (("miou", "mIoU"), ("pixel_accuracy", "pixel accuracy"))
            if not math.isnan(self.metrics[key])
        )
        return self.model.card.model_copy(update={"measured": measured})

    def final_weights(self) -> CardAndState:
        """Copy the final weights, averaged if there is an average, for the next stage."""
        with averaged_model(self.model, self.ema) as model:
            return self.card, {name: value.to("cpu", copy=True) for name, value in model.state_dict().items()}


def set_up_stage(
    recipe: Recipe,
    number: int,
    folder: Path,
    previous: CardAndState | None,
    checkpoint: dict[str, Any] | None,
    launch: Callable[..., Fabric],
    on_message: OnMessage,
) -> StageRun:
    """Set up a stage, initialized from the `previous` one or continued from its `checkpoint`.

    Raises: `AtrousError` for data, weights or options that do not fit each other.
    """
    stage = recipe.stages[number]
    data, val = open_stage_data(stage.data)
    trained = checkpoint.get("trained_images", "") if checkpoint is not None else initial_images(stage, previous)
    trained = add_trained_images(trained, data, val, stage.data)
    steps = stage.count_steps(len(data))
    loss = stage.make_loss(data.ignore_index)
    check_class_weights(loss, len(data.classes))
    model = build_model(recipe, stage, data)
    assert model.card is not None
    model.card = model.card.model_copy(update={"trained_images": trained})
    if checkpoint is None:
        for message in initialize_stage(model, recipe, number, previous):
            on_message(f"{stage.name}: {message}")
    prepare_model(model, stage)
    seed = recipe.seed + 1000 * number  # stages draw different samples
    if checkpoint is None and (message := restore_batch_norm(model, stage, data, seed)):
        on_message(f"{stage.name}: {message}")
    if checkpoint is not None:
        with _damaged_checkpoint(folder):
            model.load_state_dict(checkpoint["model"])
    fabric = launch(stage.precision, unused_parameters=bool(model.unused_parameters()))
    if warning := batch_norm_warning(model, stage, fabric.world_size):
        on_message(f"{stage.name}: {warning}")
    network = fabric.setup_module(model)
    network.mark_forward_method("training_outputs")
    if stage.compile:
        model.training_outputs = torch.compile(model.training_outputs)  # type: ignore[method-assign]
    optimizer: Any = fabric.setup_optimizers(make_optimizer(model, stage))
    ema = EMA(model, stage.ema) if stage.ema else None
    trained = model, network, optimizer, ema, loss
    run = StageRun(recipe, number, folder, fabric, data, val, *trained, stage.make_schedule(), seed, steps)
    if checkpoint is not None:
        with _damaged_checkpoint(folder):
            _restore(run, checkpoint)
    return run


def _restore(run: StageRun, checkpoint: dict[str, Any]) -> None:
    load_optimizer_state(run.model, run.optimizer, checkpoint["optimizer"])
    run.fabric.strategy.precision.load_state_dict(checkpoint["precision"])
    if run.ema is not None:
        run.ema.load_state_dict(checkpoint["ema"])
    run.step, run.metrics, run.best_miou = int(checkpoint["step"]), checkpoint["metrics"], checkpoint["best_miou"]
    run.stale = int(checkpoint.get("stale", 0))  # checkpoints of earlier versions have no count
    if not 0 <= run.step <= run.steps:
        raise ValueError(f"step {run.step} of {run.steps}")


@contextmanager
def _damaged_checkpoint(folder: Path) -> Iterator[None]:
    """Turn what a checkpoint with missing or other entries raises into an `AtrousError`."""
    try:
        yield
    except AtrousError:
        raise
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise damaged_checkpoint_error(folder, error) from error


def build_model(recipe: Recipe, stage: StageConfig, data: SegmentationDataset) -> SegmentationModel:
    """Build the network of a stage with fresh parameters, the same for the same seed, and its card."""
    torch.manual_seed(recipe.seed)
    weights, backbone_weights = recipe.stages[0].weights, recipe.stages[0].backbone_weights
    classifier = "ImageNet" if backbone_weights == "imagenet" else backbone_weights
    origin = f", backbone initialized from {classifier} weights" if classifier else ""
    origin = f", initialized from {weights}" if weights else origin
    card = Card(
        model=stage.model.id,
        arguments=stage.model.options,
        classes=data.classes,
        colors=data.colors,
        preprocessing=stage.preprocessing,
        ignore_index=data.ignore_index,
        license=recipe.license,
        source=f"trained by atrous, recipe {recipe.name}, stage {stage.name}{origin}",
        trained_on=f"{data.name} {data.split}, {len(set(data.items))} images",
    )
    model = build_from_card(card)
    model.card = card.model_copy(update={"align_corners": model.align_corners})
    return model


def prepare_model(model: SegmentationModel, stage: StageConfig) -> None:
    """Set training mode, batch normalization, frozen parts, memory format and 64-bit parameters for a stage."""
    set_batch_norm(model, stage.batch_norm, stage.batch_norm_momentum)
    model.freeze(*stage.freeze)
    model.train()
    if stage.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if stage.precision == "64-true":
        model.double()


def restore_batch_norm(model: SegmentationModel, stage: StageConfig, data: SegmentationDataset, seed: int) -> str:
    """Undo folded batch normalization that is to be trained, on training images; return a message if there is any."""
    layers = len(folded_batch_norms(model))
    if not layers:
        return ""
    single = stage.model_copy(update={"batch": 1, "accumulate": 1})  # images may have different sizes
    loader = make_loader(data, single, UNFOLD_IMAGES, seed=seed)
    unfold_batch_norm(model, (normalize(batch.images, stage) for batch in loader))
    return (
        f"{layers} layers of batch normalization that only scaled and shifted have statistics of training "
        "images now; batch_norm=frozen would leave them as they were."
    )


def batch_norm_warning(model: nn.Module, stage: StageConfig, processes: int) -> str:
    """Return a warning about batch normalization over too few images, or an empty string."""
    trained = any(isinstance(layer, BatchNorm2d) and layer.training for layer in model.modules())
    images = stage.batch // stage.accumulate // (1 if stage.batch_norm == "sync" else processes)
    if not trained or images >= MIN_BATCH:
        return ""
    return (
        f"Batch normalization computes statistics over {images} image{'s' * (images > 1)} at a time; below {MIN_BATCH} "
        "they are noisy (DeepLab v3 table 9: 64.4 mIoU at 4, 77.2 at 16). Freeze it (batch_norm=frozen) or raise batch."
    )


def make_optimizer(model: SegmentationModel, stage: StageConfig) -> torch.optim.Optimizer:
    """Make the optimizer of a stage, with the learning-rate and weight-decay multipliers of the papers.

    Raises: `AtrousError` if all parameters are frozen.
    """
    config = stage.optimizer
    multipliers = config.model_dump(exclude={"name", "lr", "momentum", "nesterov"})
    groups = model.parameter_groups(config.lr, **multipliers)
    if not groups:
        raise AtrousError(f"stage '{stage.name}': freeze {list(stage.freeze)} leaves no parameters to train.")
    for group in groups:
        group["initial_lr"] = group["lr"]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)
    adam = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return adam(groups, lr=config.lr, betas=(config.momentum, 0.999))


def normalize(images: Tensor, stage: StageConfig) -> Tensor:
    """Normalize a batch of 8-bit images: `(pixel - mean) / std` in the network's channel order and memory format.

    Shape: (N, 3, H, W) uint8 RGB -> (N, 3, H, W) float32, or float64 in 64-bit training.
    """
    # Not `inference.preprocess.normalize`, a table look-up for one image: batches are on any device, in 64 bits too.
    dtype = torch.float64 if stage.precision == "64-true" else torch.float32
    memory_format = torch.channels_last if stage.channels_last else torch.contiguous_format
    values = images.flip(1) if stage.preprocessing.channel_order == "BGR" else images
    mean, std = (  # rounded to float32 first, as buffers of a network are
        torch.tensor(each, dtype=torch.float32, device=images.device)[:, None, None].to(dtype)
        for each in (stage.preprocessing.mean, stage.preprocessing.std)
    )
    return ((values.to(dtype) - mean) / std).contiguous(memory_format=memory_format)
