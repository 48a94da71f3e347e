"""What is done between the steps of a stage: it is logged, judged, kept as a checkpoint, exported, and stopped."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch

from atrous.card import Card, Measurement
from atrous.data.loading import Batch
from atrous.errors import AtrousError
from atrous.evaluation.confusion import ConfusionMatrix
from atrous.training.fsdp import load_optimizer, optimizer_state, whole_state
from atrous.training.logs import Log, draw_samples, figures
from atrous.training.run_dir import RECIPE, write_checkpoint
from atrous.training.stage_run import OnMessage, StageRun
from atrous.training.validate import judge
from atrous.weights import save

MEASURED = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy"}
"""The figures that a card tells, and what it calls them."""


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


OnProgress = Callable[[Progress], None]


class StoppedError(Exception):
    """Ctrl-C was pressed, and the checkpoint is written."""


class Keeper(L.Callback):
    """Looks after a stage while it runs; `asked` is set when it is to stop."""

    def __init__(self, run: StageRun, asked: threading.Event, on_progress: OnProgress, on_message: OnMessage) -> None:
        self.run, self.asked, self.on_progress, self.on_message = run, asked, on_progress, on_message
        self.judged: dict[str, float] = dict((run.state or {}).get("judged", {}))
        self.best = float((run.state or {}).get("best", -1.0))
        self.ready = self.began = 0.0
        self.waited = 0.0
        self.records: Log | None = None
        """Of the first process alone. (`log` is what Lightning gives its callbacks.)"""
        self.first_judgement = not self.judged

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        run = self.run
        if run.state is not None:
            load_optimizer(run.model, run.task.optimizer, run.state["optimizer"])
            trainer.precision_plugin.load_state_dict(run.state["precision"])
        if trainer.is_global_zero:
            names = [stage.name for stage in run.recipe.stages]
            self.records = Log(run.folder, names, run.number, run.start, run.data.classes)
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
        if self.records is not None:
            self.records.close()

    def _after_step(self, trainer: L.Trainer) -> None:
        run, stage, step = self.run, self.run.stage, self.run.task.step
        last = step == run.steps
        loss, lr = self._log_step(trainer, step)
        every = stage.evaluate.every
        if last or (every and step % every == 0):
            if run.val is not None:
                self._judge(trainer, step)
            if self.records is not None:
                self.records.draw()
        asked = self._anyone_asked(trainer)
        if last:
            self._export(f"{stage.name}.safetensors", "last.safetensors")
        if last or asked or step % stage.checkpoint_every == 0:
            self._checkpoint(trainer)
        self.on_progress(Progress(stage.name, step, run.steps, loss, lr, self.judged.get("miou")))
        if asked and not last:
            raise StoppedError
        self.began = time.perf_counter()

    def _log_step(self, trainer: L.Trainer, step: int) -> tuple[float, float]:
        """The loss of the step that was just made, over all processes, and its learning rate."""
        run, task = self.run, self.run.task
        mean = torch.stack(task.losses).mean()
        task.losses.clear()
        loss = float(trainer.strategy.reduce(mean, reduce_op="mean"))
        lr = run.stage.optimizer.lr * task.schedule(step - 1, run.steps)
        now = time.perf_counter()
        seconds, waited = now - self.began, self.waited
        self.began, self.waited = now, 0.0
        if self.records is not None:
            self.records.add_step(step, loss=loss, lr=lr, seconds=seconds, waited=waited)
        return loss, lr

    def _anyone_asked(self, trainer: L.Trainer) -> bool:
        """Whether any process was asked to stop; all have to stop after the same step."""
        if trainer.world_size == 1:
            return self.asked.is_set()
        flag = torch.tensor(float(self.asked.is_set()), device=self.run.task.device)
        return bool(trainer.strategy.reduce(flag, reduce_op="sum") > 0)

    def _judge(self, trainer: L.Trainer, step: int) -> None:
        run, stage = self.run, self.run.stage
        if trainer.world_size > 1 and stage.batch_norm == "train":
            for buffer in run.model.buffers():  # each process has its own statistics; those of the first are exported
                torch.distributed.broadcast(buffer, 0)
        assert run.val is not None
        with run.task.averaged() as model:
            found = judge(model, run.card, run.val, stage, rank=trainer.global_rank, processes=trainer.world_size)
        self.judged = figures(found.matrix, run.data.classes)
        if self.records is not None:
            self.records.add_evaluation(step, self.judged)
            page = run.folder / "samples" / f"{stage.name}_{step:06}.png"
            draw_samples(page, found.samples, found.predictions, run.data)
            if self.first_judgement:
                self.first_judgement = False
                self._warn_of_absent(found.matrix)
        if self.judged["miou"] > self.best:
            self.best = self.judged["miou"]
            self._export("best.safetensors")

    def _warn_of_absent(self, matrix: ConfusionMatrix) -> None:
        true, found = matrix.counts.sum(1), matrix.counts.sum(0)
        never = [name for index, name in enumerate(self.run.data.classes) if true[index] and not found[index]]
        if never:
            self.on_message(
                f"{self.run.stage.name}: in the first evaluation no pixel was taken for {', '.join(never)}. If that "
                "stays so: class weights, hard_pixels or lovasz as loss, or crops with class_aware."
            )

    def _export(self, *names: str) -> None:
        """Weights with a complete card, by the first process: averaged ones where there is an average."""
        with self.run.task.averaged() as model:
            if self.records is not None:
                for name in names:
                    save(model, self.run.folder / name, card=self._card())

    def _card(self) -> Card:
        """The card with the figures of the last evaluation."""
        run = self.run
        if not self.judged or run.val is None:
            return run.card
        data = f"{run.val.name} {run.val.split}"
        if run.stage.evaluate.images:
            data += f", the first {run.stage.evaluate.images} images"
        command = f"atrous train {run.folder / RECIPE}"
        measured = tuple(
            Measurement(name=name, value=round(100 * self.judged[key], 2), data=data, command=command)
            for key, name in MEASURED.items()
            if not math.isnan(self.judged[key])
        )
        return run.card.model_copy(update={"measured": measured})

    def _checkpoint(self, trainer: L.Trainer) -> None:
        """Write all that resuming needs, unless the network is beyond repair."""
        run, task = self.run, self.run.task
        model, optimizer = whole_state(run.model), optimizer_state(run.model, task.optimizer)
        average = task.ema.state_dict() if task.ema is not None else {}
        if self.records is None:
            return
        for name, value in model.items():
            if value.is_floating_point() and not value.isfinite().all():
                raise AtrousError(
                    f"After step {task.step} of stage '{run.stage.name}' {name} is not finite. The last checkpoint is "
                    "from before: lower the learning rate (optimizer.lr) or clip gradients (clip=1)."
                )
        state = {
            "stage": run.number,
            "step": task.step,
            "model": model,
            "optimizer": optimizer,
            "precision": trainer.precision_plugin.state_dict(),
            "ema": average,
            "judged": self.judged,
            "best": self.best,
        }
        write_checkpoint(run.folder, state)
