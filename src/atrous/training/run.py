"""A recipe carried out: a run folder, and in it weights.

recipe.yaml         the recipe in full
environment.json    versions, devices, command, git state; one entry for each start
log.csv             every step: loss, learning rate, seconds, and how many of them it waited for its images
evaluations.csv     every evaluation: mIoU, accuracies, the IoU of each class
tensorboard/        the same
curves.png          the same
samples/            pages of images with what was found in them
checkpoint.pt       all that resuming needs
best.safetensors    the weights of the stage's best evaluation, with their card
last.safetensors    the newest; STAGE.safetensors: those that a stage ended with
"""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, Strategy

from atrous.data.catalog import open_dataset
from atrous.data.dataset import SegmentationDataset
from atrous.data.loading import Batch
from atrous.errors import AtrousError
from atrous.files import check_writable, writing
from atrous.models import SegmentationModel
from atrous.training.feed import make_loader, open_training_data
from atrous.training.judge import judge
from atrous.training.recipe import Recipe, Stage
from atrous.training.record import (
    FIGURES,
    STEPS,
    Table,
    draw_curves,
    draw_samples,
    environment,
    figures,
    read_rows,
    write_json,
    write_text,
)
from atrous.training.start import Started, start_backbone, start_from, transfer
from atrous.training.task import MovingAverage, SegmentationTask, batch_norm_warning
from atrous.weights import Card, Measurement, save

log = logging.getLogger("atrous.training")
CHECKPOINT = "checkpoint.pt"
RECIPE = "recipe.yaml"


@dataclass(frozen=True)
class Progress:
    """Where a training is."""

    stage: str
    step: int
    steps: int
    loss: float
    lr: float
    miou: float | None
    """Of the last evaluation."""


@dataclass(frozen=True)
class Result:
    """What a training left: its folder, and the figures of each stage's last evaluation, by its name."""

    folder: Path
    stages: dict[str, dict[str, float]]
    best: Path | None
    last: Path


OnProgress = Callable[[Progress], None]
OnMessage = Callable[[str], None]


def train(
    recipe: Recipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    accelerator: str = "auto",
    devices: int | str = "auto",
    on_progress: OnProgress = lambda progress: None,
    on_message: OnMessage = log.info,
) -> Result:
    """Carry out a recipe, or go on with it where its last checkpoint was written.

    It runs on all the devices that are asked for; under `torchrun`, on those of all its processes.

    Raises: `AtrousError` for a folder that holds another run, data that cannot be read, a loss that is not finite, or a
    full disk; `KeyboardInterrupt` after Ctrl-C, once the checkpoint is written.
    """
    folder = Path(folder)
    state = _prepare_folder(recipe, folder, resume)
    torch.use_deterministic_algorithms(recipe.deterministic, warn_only=True)
    before: tuple[SegmentationModel, Card] | None = None
    judged: dict[str, dict[str, float]] = {}
    with _graceful() as asked:
        for number, stage in enumerate(recipe.stages):
            if state is not None and number < state["stage"]:
                continue
            own = state if state is not None and number == state["stage"] else None
            stage_run = _StageRun(recipe, number, folder, before, own, accelerator, devices, on_message)
            keeper = _Keeper(stage_run, asked, on_progress, on_message)
            stage_run.fit(keeper)
            judged[stage.name] = keeper.judged
            before = stage_run.finished(), stage_run.card
    best = folder / "best.safetensors"
    return Result(folder, judged, best if best.is_file() else None, folder / "last.safetensors")


def count_steps(stage: Stage, images: int) -> int:
    """Steps of the optimiser in a stage; an epoch that is begun is counted in part."""
    return stage.steps or max(1, math.ceil(stage.epochs * images / stage.batch))


def make_card(recipe: Recipe, stage: Stage, data: SegmentationDataset, model_corners: bool = False) -> Card:
    """The card of what a stage trains, without figures."""
    return Card(
        model=stage.model.id,
        arguments=stage.model.options,
        classes=data.classes,
        colours=data.colours,
        preprocessing=stage.preprocessing,
        align_corners=model_corners,
        ignore_index=data.ignore_index,
        licence=recipe.licence,
        source=f"trained by atrous, recipe {recipe.name}, stage {stage.name}",
        trained_on=f"{data.name} {data.split}, {len(set(data.items))} images",
    )


def build(recipe: Recipe, stage: Stage, data: SegmentationDataset) -> SegmentationModel:
    """The network of a stage with fresh parameters, the same for the same seed, and its card."""
    torch.manual_seed(recipe.seed)
    model = make_card(recipe, stage, data).build()
    model.card = make_card(recipe, stage, data, model.align_corners)
    return model


class _StageRun:
    """One stage: its data, its network and its Lightning trainer."""

    def __init__(
        self,
        recipe: Recipe,
        number: int,
        folder: Path,
        before: tuple[SegmentationModel, Card] | None,
        state: dict[str, Any] | None,
        accelerator: str,
        devices: int | str,
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
            self.model, stage, steps=self.steps, start=self.start, seed=self.seed, ignore_index=self.data.ignore_index
        )
        if state is not None:
            self.model.load_state_dict(state["model"])
        if stage.ema:
            self.task.ema = MovingAverage(self.model, stage.ema)
            if state is not None:
                self.task.ema.load_state_dict(state["ema"])
        self.trainer = self._make_trainer(accelerator, devices)
        if warning := batch_norm_warning(self.model, stage, self.trainer.world_size):
            on_message(f"{stage.name}: {warning}")

    def _start(self, before: tuple[SegmentationModel, Card] | None) -> list[Started]:
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

    def fit(self, keeper: _Keeper) -> None:
        """Train from `start` to the last step; nothing where that is done, for it was exported before it was noted."""
        if self.start >= self.steps:
            return
        trainer, task = self.trainer, self.task
        trainer.callbacks.append(keeper)  # type: ignore[attr-defined]
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
            trainer.fit(task, train_dataloaders=loader)

    def finished(self) -> SegmentationModel:
        """The network as it was exported, for the next stage to start from."""
        if self.task.ema is not None:
            self.task.ema.copy_to(self.model)
        return self.model

    def _make_trainer(self, accelerator: str, devices: int | str) -> L.Trainer:
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)
        local, world = (int(os.environ.get(name, 0)) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        if accelerator == "auto" and not torch.cuda.is_available():
            accelerator = "cpu"
        if devices == "auto" and accelerator == "cpu":
            devices = 1
        nodes = world // local if local else 1
        strategy: Strategy | str = (
            DDPStrategy() if local > 1 or nodes > 1 or devices not in (1, "auto", "1") else "auto"
        )
        return L.Trainer(
            accelerator=accelerator,
            devices=local or devices,
            num_nodes=nodes,
            strategy=strategy,
            precision=self.stage.precision,
            max_epochs=1,
            max_steps=self.steps - self.start,
            accumulate_grad_batches=self.stage.accumulate,
            gradient_clip_val=self.stage.clip or None,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=self.folder,
        )


class StoppedError(Exception):
    """Ctrl-C was pressed, and the checkpoint is written."""


class _Keeper(L.Callback):
    """Writes the log, judges, keeps checkpoints and exports, between the steps."""

    def __init__(self, run: _StageRun, asked: threading.Event, on_progress: OnProgress, on_message: OnMessage) -> None:
        self.run, self.asked, self.on_progress, self.on_message = run, asked, on_progress, on_message
        self.judged: dict[str, float] = dict((run.state or {}).get("judged", {}))
        self.best = float((run.state or {}).get("best", -1.0))
        self.ready = self.began = 0.0
        self.waited = 0.0
        self.rows = self.evaluations = None  # type: Table | None
        self.board: Any = None
        self.first_judgement = not self.judged

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        run = self.run
        if run.state is not None:
            optimiser = run.task.optimizers(use_pl_optimizer=False)
            assert isinstance(optimiser, torch.optim.Optimizer)
            optimiser.load_state_dict(run.state["optimiser"])
            trainer.precision_plugin.load_state_dict(run.state["precision"])
        if trainer.is_global_zero:
            from torch.utils.tensorboard import SummaryWriter

            names = [stage.name for stage in run.recipe.stages]
            resumed = (run.number, run.start)
            figures_of_all = (*FIGURES, *(f"iou {name}" for name in run.data.classes))
            self.rows = Table(run.folder / "log.csv", STEPS, names, resumed)
            self.evaluations = Table(run.folder / "evaluations.csv", ("stage", "step", *figures_of_all), names, resumed)
            self.board = SummaryWriter(str(run.folder / "tensorboard" / run.stage.name), purge_step=run.start + 1)
            if run.state is None:
                self._checkpoint(trainer)
        self.began = self.ready = time.perf_counter()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self.waited += time.perf_counter() - self.ready

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % self.run.stage.accumulate == 0:
            self._after_step(trainer)
        self.ready = time.perf_counter()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._close()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def _close(self) -> None:
        if self.board is not None:
            self.board.close()

    def _after_step(self, trainer: L.Trainer) -> None:
        run, task = self.run, self.run.task
        step, last = task.step, task.step == run.steps
        loss = torch.stack(task.losses).mean()
        task.losses.clear()
        loss = trainer.strategy.reduce(loss, reduce_op="mean")
        now = time.perf_counter()
        lr = run.stage.optimiser.lr * task.schedule(step - 1, run.steps)
        row = {
            "stage": run.stage.name,
            "step": step,
            "loss": repr(float(loss)),
            "lr": lr,
            "seconds": round(now - self.began, 4),
            "waited": round(self.waited, 4),
        }
        self.began, self.waited = now, 0.0
        if self.rows is not None:
            self.rows.add(row)
            self.board.add_scalar("loss", float(loss), step)
            self.board.add_scalar("learning rate", lr, step)
        every = run.stage.evaluate.every
        judging = last or bool(every and step % every == 0)
        if judging and run.val is not None:
            self._judge(trainer, step)
        if judging and trainer.is_global_zero:
            rows = (read_rows(run.folder / name) for name in ("log.csv", "evaluations.csv"))
            draw_curves(run.folder / "curves.png", *rows)
        asked = self._anyone_asked(trainer)
        if last and trainer.is_global_zero:
            self._export(f"{run.stage.name}.safetensors")
            self._export("last.safetensors")
        if last or asked or step % run.stage.checkpoint_every == 0:
            self._checkpoint(trainer)
        self.on_progress(
            Progress(run.stage.name, step, run.steps, float(loss), lr, self.judged.get("miou") if self.judged else None)
        )
        if asked and not last:
            raise StoppedError
        self.began = time.perf_counter()

    def _anyone_asked(self, trainer: L.Trainer) -> bool:
        """Whether any process was asked to stop; all have to stop after the same step."""
        if trainer.world_size == 1:
            return self.asked.is_set()
        flag = torch.tensor(float(self.asked.is_set()), device=self.run.task.device)
        return bool(trainer.strategy.reduce(flag, reduce_op="sum") > 0)

    def _judge(self, trainer: L.Trainer, step: int) -> None:
        run = self.run
        if trainer.world_size > 1 and run.stage.batch_norm == "train":
            for buffer in run.model.buffers():  # each process has its own statistics; those of the first are exported
                torch.distributed.broadcast(buffer, 0)
        assert run.val is not None
        with run.task.averaged() as model:
            found = judge(model, run.card, run.val, run.stage, rank=trainer.global_rank, processes=trainer.world_size)
        self.judged = figures(found.matrix, run.data.classes)
        if not trainer.is_global_zero:
            return
        assert self.evaluations is not None
        self.evaluations.add({"stage": run.stage.name, "step": step, **self.judged})
        for name in FIGURES:
            self.board.add_scalar(name, self.judged[name], step)
        draw_samples(
            run.folder / "samples" / f"{run.stage.name}_{step:06}.png", found.samples, found.predictions, run.data
        )
        if self.first_judgement:
            self.first_judgement = False
            self._warn_of_absent(found.matrix)
        if self.judged["miou"] > self.best:
            self.best = self.judged["miou"]
            self._export("best.safetensors")

    def _warn_of_absent(self, matrix: Any) -> None:
        never = [
            name
            for name, true, found in zip(self.run.data.classes, matrix.counts.sum(1), matrix.counts.sum(0), strict=True)
            if true and not found
        ]
        if never:
            self.on_message(
                f"{self.run.stage.name}: in the first evaluation no pixel was taken for {', '.join(never)}. If that "
                "stays so: class weights, hard_pixels or lovasz as loss, or crops with class_aware."
            )

    def _export(self, name: str) -> None:
        """Weights with a complete card: averaged ones where there is an average."""
        run = self.run
        card = run.card
        if self.judged and run.val is not None:
            command = f"atrous train {run.folder / RECIPE}"
            data = f"{run.val.name} {run.val.split}"
            if run.stage.evaluate.images:
                data += f", the first {run.stage.evaluate.images} images"
            named = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy"}
            measured = tuple(
                Measurement(name=text, value=round(100 * self.judged[key], 2), data=data, command=command)
                for key, text in named.items()
                if not math.isnan(self.judged[key])
            )
            card = card.model_copy(update={"measured": measured})
        with run.task.averaged() as model:
            save(model, run.folder / name, card=card)

    def _checkpoint(self, trainer: L.Trainer) -> None:
        run, task = self.run, self.run.task
        if not trainer.is_global_zero:
            return
        optimiser = task.optimizers(use_pl_optimizer=False)
        assert isinstance(optimiser, torch.optim.Optimizer)
        for name, value in run.model.state_dict().items():
            if value.is_floating_point() and not value.isfinite().all():
                raise AtrousError(
                    f"After step {task.step} of stage '{run.stage.name}' {name} is not finite. The last checkpoint is "
                    "from before: lower the learning rate (optimiser.lr) or clip gradients (clip=1)."
                )
        state = {
            "stage": run.number,
            "step": task.step,
            "model": run.model.state_dict(),
            "optimiser": optimiser.state_dict(),
            "precision": trainer.precision_plugin.state_dict(),
            "ema": task.ema.state_dict() if task.ema is not None else {},
            "judged": self.judged,
            "best": self.best,
        }
        path = run.folder / CHECKPOINT
        try:
            with writing(path) as temporary:
                torch.save(state, temporary)
        except RuntimeError as error:  # torch's writer has its own word for a full disk
            raise AtrousError(
                f"Cannot write {path}: {str(error).splitlines()[0]}. Is the disk full? The checkpoint before is whole: "
                "make room, then --resume."
            ) from error


def _prepare_folder(recipe: Recipe, folder: Path, resume: bool) -> dict[str, Any] | None:
    """Make the run folder, or find the checkpoint in it.

    Raises: `AtrousError` where there is a run and none was to be resumed, or the reverse, or it is of another recipe.
    """
    path = folder / RECIPE
    first = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0
    if resume:
        if not path.is_file():
            raise AtrousError(f"{folder}: there is no run to resume, for it has no {RECIPE}.")
        if path.read_text("utf-8") != recipe.to_yaml():
            raise AtrousError(
                f"{path} is another recipe than the one given: resume it as it was, or choose another --out."
            )
    elif first and path.exists():
        raise AtrousError(f"{folder}: there is a run already. Go on with it by --resume, or choose another with --out.")
    if first:
        check_writable(folder)
        write_text(path, recipe.to_yaml())
        starts = folder / "environment.json"
        before = json.loads(starts.read_text("utf-8")) if starts.is_file() else []
        write_json(starts, [*before, environment()])
    return read_checkpoint(folder) if resume else None


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The checkpoint of a run; None before there is one.

    Raises: `AtrousError` for a damaged file.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise AtrousError(
            f"{path}: the checkpoint is damaged ({type(error).__name__}); nothing can be resumed."
        ) from error


@contextmanager
def _graceful() -> Iterator[threading.Event]:
    """Ctrl-C asks for a stop after the current step; a second one stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: Any) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    except StoppedError as error:
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGINT, before)
