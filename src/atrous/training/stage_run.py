"""A stage carried out: its data, its network and what that starts from, its Lightning trainer."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from atrous.card import Card
from atrous.data.catalog import open_dataset
from atrous.errors import AtrousError
from atrous.models import SegmentationModel
from atrous.training.build import build, count_steps
from atrous.training.initialize import LoadReport, start_backbone, start_from, transfer
from atrous.training.loader import make_loader, open_training_data
from atrous.training.recipe import Recipe
from atrous.training.task import MovingAverage, SegmentationTask, batch_norm_warning

SHARDED_PRECISIONS = ("32-true", "bf16-mixed")
OnMessage = Callable[[str], None]


class StageRun:
    """One stage of a recipe. `before` is what the stage before ended with, `state` the checkpoint it goes on from."""

    def __init__(
        self,
        recipe: Recipe,
        number: int,
        folder: Path,
        before: tuple[SegmentationModel, Card] | None,
        state: dict[str, Any] | None,
        accelerator: str,
        devices: int | str,
        sharded: bool,
        on_message: OnMessage,
    ) -> None:
        self.recipe, self.number, self.folder = recipe, number, folder
        self.stage = stage = recipe.stages[number]
        self.state = state
        self.seed = recipe.seed + 1000 * number
        self.data = open_training_data(stage.data)
        self.val = open_dataset(stage.data.val) if stage.data.val else None
        if self.val is not None and self.val.classes != self.data.classes:
            raise AtrousError(
                f"{stage.data.val} has not the classes of {self.data.name}, so it cannot be the judge of it."
            )
        self.steps = count_steps(stage, len(self.data))
        self.start = 0 if state is None else int(state["step"])
        self.model = build(recipe, stage, self.data)
        assert self.model.card is not None
        self.card = self.model.card
        if state is None:
            for line in self._start(before):
                on_message(f"{stage.name}: started with {line}")
        self.task = SegmentationTask(
            self.model,
            stage,
            steps=self.steps,
            start=self.start,
            seed=self.seed,
            ignore_index=self.data.ignore_index,
            sharded=sharded,
        )
        if state is not None:
            self.model.to(next(iter(state["model"].values())).dtype)  # precision=64-true is lost otherwise
        if stage.ema:
            self.task.ema = MovingAverage(self.model, stage.ema)
        if state is not None:
            self.model.load_state_dict(state["model"])
            if self.task.ema is not None:
                self.task.ema.load_state_dict(state["ema"])
        self.trainer = make_trainer(
            accelerator,
            devices,
            sharded,
            precision=stage.precision,
            max_steps=self.steps - self.start,
            accumulate_grad_batches=stage.accumulate,
            gradient_clip_val=stage.clip or None,
            default_root_dir=folder,
        )
        if warning := batch_norm_warning(self.model, stage, self.trainer.world_size):
            on_message(f"{stage.name}: {warning}")

    def _start(self, before: tuple[SegmentationModel, Card] | None) -> list[LoadReport]:
        """Fill the fresh network: the backbone, then a whole network, then what the stage before ended with."""
        stage, started = self.stage, []
        if stage.backbone_weights and before is None and not stage.weights:
            started.append(start_backbone(self.model, stage.backbone_weights))
        if stage.weights and before is None:
            started.append(start_from(self.model, self.card, stage.weights))
        if before is not None:
            model, card = before
            where = f"stage {self.recipe.stages[self.number - 1].name}"
            started.append(transfer(self.model, self.card, model.state_dict(), card, where))
        return started

    def fit(self, callback: L.Callback) -> None:
        """Train from `start` to the last step; nothing where that is done, for it was exported before it was noted."""
        if self.start >= self.steps:
            return
        trainer = self.trainer
        trainer.callbacks.append(callback)  # type: ignore[attr-defined]
        loader = make_loader(
            self.data,
            self.stage,
            steps=self.steps,
            start=self.start,
            rank=trainer.global_rank,
            processes=trainer.world_size,
            seed=self.seed,
            pin_memory=torch.cuda.is_available(),
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning|torch.optim.lr_scheduler")
            trainer.fit(self.task, train_dataloaders=loader)

    def finished(self) -> SegmentationModel:
        """The network as it was exported, for the next stage to start from."""
        return self.task.finished()


def make_trainer(accelerator: str, devices: int | str, sharded: bool, **options: Any) -> L.Trainer:
    """A silent trainer that keeps nothing by itself, on the devices asked for or, under `torchrun`, on those given.

    Raises: `AtrousError` for devices that are not there, and where a network is to be shared out over one process, or
    in a precision that cannot be.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    local, world = (int(os.environ.get(name, 0)) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    if accelerator == "auto" and not torch.cuda.is_available():
        accelerator = "cpu"
    if devices == "auto" and accelerator == "cpu":
        devices = 1
    nodes = world // local if local else 1
    strategy: Strategy | str = "auto"
    if sharded:
        processes = world or (torch.cuda.device_count() if devices == "auto" else int(devices))
        if processes < 2:
            raise AtrousError("fsdp shares a network out over processes, and there is one: see --devices, or torchrun.")
        if options["precision"] not in SHARDED_PRECISIONS:
            raise AtrousError(
                f"precision={options['precision']} cannot be had with fsdp: it takes {', '.join(SHARDED_PRECISIONS)}."
            )
        strategy = ModelParallelStrategy(data_parallel_size=processes, tensor_parallel_size=1)
    elif local > 1 or nodes > 1 or devices not in (1, "auto", "1"):
        strategy = DDPStrategy()
    try:
        return L.Trainer(
            accelerator=accelerator,
            devices=local or devices,
            num_nodes=nodes,
            strategy=strategy,
            max_epochs=1,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise AtrousError(
            f"There is no training on {devices} devices of kind '{accelerator}': {str(error).splitlines()[0]}"
        ) from error
