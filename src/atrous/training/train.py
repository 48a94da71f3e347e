"""The training loop, on Lightning Fabric."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atrous.allocator import keep_freed_memory
from atrous.data.loading import Batch, dead_worker_error
from atrous.errors import AtrousError
from atrous.training.ema import averaged_model
from atrous.training.fabric import (
    STRATEGIES,
    StopRequest,
    TrainingInterrupted,
    any_process,
    catch_interrupt,
    check_requirements,
    make_fabric,
    reduce,
)
from atrous.training.fsdp import gather_state, optimizer_state
from atrous.training.initialize import CardAndState
from atrous.training.loader import make_loader, step_seed
from atrous.training.logs import StageLog, compute_metrics, draw_curves, draw_samples
from atrous.training.losses import training_loss
from atrous.training.recipe import Recipe
from atrous.training.required_files import check_stages_labeled
from atrous.training.run_dir import prepare_run_dir, write_checkpoint
from atrous.training.schedules import set_learning_rate
from atrous.training.stage import OnMessage, StageRun, normalize, set_up_stage
from atrous.training.validate import validate
from atrous.weights import save

logger = logging.getLogger("atrous.training")


@dataclass(frozen=True)
class TrainProgress:
    """Progress of a training, reported after every step; `miou` is that of the last evaluation."""

    stage: str
    step: int
    steps: int
    loss: float
    lr: float
    miou: float | None


OnTrainProgress = Callable[[TrainProgress], None]


@dataclass(frozen=True)
class TrainResult:
    """The run folder, the metrics of each stage's last evaluation by stage name, and the files of the weights."""

    folder: Path
    stages: dict[str, dict[str, float]]
    best: Path | None
    last: Path


def train(
    recipe: Recipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    accelerator: str = "auto",
    devices: int | str = "auto",
    strategy: str = "ddp",
    on_progress: OnTrainProgress = lambda progress: None,
    on_message: OnMessage = logger.info,
) -> TrainResult:
    """Train all stages of a recipe, or resume from the last checkpoint in the folder.

    Runs on the requested devices; under `torchrun`, on those of all its processes. With the strategy "ddp" every
    process holds the whole network; with "fsdp" it is sharded, which takes less memory and more time.

    Raises: `AtrousError` for an unknown strategy, a folder with another run, data that is unreadable or has no label, a
    loss that is not finite, or a full disk; `TrainingInterrupted`, a `KeyboardInterrupt`, after Ctrl-C or SIGTERM,
    once the checkpoint is written.
    """
    if strategy not in STRATEGIES:
        raise AtrousError(f"Unknown strategy '{strategy}': use {' or '.join(STRATEGIES)}.")
    check_requirements()
    keep_freed_memory()
    folder = Path(folder)
    if not resume:
        check_stages_labeled(recipe)  # before files are written
    checkpoint = prepare_run_dir(recipe, folder, resume)
    torch.use_deterministic_algorithms(recipe.deterministic, warn_only=True)
    launch = partial(make_fabric, accelerator=accelerator, devices=devices, strategy=strategy)
    metrics: dict[str, dict[str, float]] = {}
    previous: CardAndState | None = None
    with catch_interrupt() as interrupted:
        for number, stage in enumerate(recipe.stages):
            if checkpoint is not None and number < checkpoint["stage"]:
                continue
            resumed = checkpoint if checkpoint is not None and number == checkpoint["stage"] else None
            run = set_up_stage(recipe, number, folder, previous, resumed, launch, on_message)
            train_stage(run, interrupted, on_progress, on_message)
            metrics[stage.name] = run.metrics
            previous = run.final_weights()
    best = folder / "best.safetensors"
    return TrainResult(folder, metrics, best if best.is_file() else None, folder / "last.safetensors")


def train_stage(run: StageRun, interrupted: StopRequest, on_progress: OnTrainProgress, on_message: OnMessage) -> None:
    """Train a stage from its current step to its last one, unless it is finished."""
    if run.finished:
        return
    fabric, stages = run.fabric, [stage.name for stage in run.recipe.stages]
    loader = make_loader(run.data, run.config, run.steps, run.step, fabric.global_rank, fabric.world_size, run.seed)
    log = StageLog(run.folder, stages, run.number, run.step, run.data.classes) if fabric.is_global_zero else None
    with closing(log) if log else nullcontext():
        if run.step == 0:
            save_checkpoint(run)
        with dead_worker_error(), closing(iter(loader)) as batches:
            training_loop(run, batches, log, interrupted, on_progress, on_message)


def training_loop(
    run: StageRun,
    batches: Iterator[Batch],
    log: StageLog | None,
    interrupted: StopRequest,
    on_progress: OnTrainProgress,
    on_message: OnMessage,
) -> None:
    """Run the remaining optimizer steps. Seeds depend on the step, so resuming reproduces an uninterrupted run."""
    fabric, network, optimizer, stage = run.fabric, run.network, run.optimizer, run.config
    set_learning_rate(optimizer, factor := run.schedule(run.step, run.steps))
    start = time.perf_counter()
    while not run.finished:
        losses, data_seconds = [], 0.0
        for micro_step in range(stage.accumulate):
            waiting = time.perf_counter()
            batch = fabric.to_device(next(batches))
            data_seconds += time.perf_counter() - waiting
            torch.manual_seed(step_seed(run.seed, run.step, micro_step, fabric.global_rank))
            with fabric.no_backward_sync(network, enabled=micro_step + 1 < stage.accumulate):
                with fabric.autocast():
                    outputs = network.training_outputs(normalize(batch.images, stage))
                    align_corners = run.model.align_corners
                    settings = run.loss, run.step, stage.loss_stride, align_corners
                    loss = training_loss(outputs, batch.labels, *settings, weights=batch.weights)
                check_finite(loss, run, batch.names)
                fabric.backward(loss / stage.accumulate)
            losses.append(loss.detach())

        if stage.grad_clip_norm:
            fabric.clip_gradients(network, optimizer, max_norm=stage.grad_clip_norm, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad()
        if run.ema is not None:
            run.ema.update(run.model)
        lr = stage.optimizer.lr * factor
        run.step += 1
        set_learning_rate(optimizer, factor := run.schedule(run.step, run.steps))

        mean_loss = reduce(fabric, torch.stack(losses).mean(), "mean")
        if log is not None:
            log.add_step(run.step, mean_loss, lr, seconds=time.perf_counter() - start, data_seconds=data_seconds)
        if run.step == run.steps or run.step % stage.evaluate.interval(run.steps) == 0:
            validate_stage(run, log, on_message)
        last = run.finished
        if last:
            save_weights(run, f"{stage.name}.safetensors", "last.safetensors")
        stop = any_process(fabric, interrupted)
        if last or stop or run.step % stage.checkpoint_every == 0:
            save_checkpoint(run)
        on_progress(TrainProgress(stage.name, run.step, run.steps, mean_loss, lr, run.metrics.get("miou")))
        if stop and not last:
            raise TrainingInterrupted(interrupted.signal, run.step)
        start = time.perf_counter()


def check_finite(loss: Tensor, run: StageRun, names: Sequence[str]) -> None:
    """Stop at a loss that is not finite, and name its images.

    Raises: `AtrousError` before the gradient is computed; the last checkpoint is from an earlier step.
    """
    if not math.isfinite(loss.item()):
        raise AtrousError(
            f"The loss is {loss.item()} in step {run.step + 1} of stage '{run.config.name}', on {', '.join(names)}. "
            "The last checkpoint is from an earlier step. Check these images, or restart with a lower learning rate "
            "(optimizer.lr), with warmup (warmup.steps), or with gradient clipping (grad_clip_norm=1)."
        )


def validate_stage(run: StageRun, log: StageLog | None, on_message: OnMessage) -> None:
    """Validate on all processes, log the metrics, and export the weights if they are the best so far."""
    fabric, stage, classes = run.fabric, run.config, run.data.classes
    if run.val is not None:
        if fabric.world_size > 1 and stage.batch_norm == "train":
            for buffer in run.model.buffers():  # each process has its own statistics; those of the first are exported
                torch.distributed.broadcast(buffer, 0)
        with averaged_model(run.model, run.ema) as model:
            result = validate(model, run.card, run.val, stage, rank=fabric.global_rank, processes=fabric.world_size)
        missing = result.missing_classes(classes) if not run.metrics else []
        run.metrics = compute_metrics(result.matrix, classes)
        if log is not None:
            log.add_evaluation(run.step, run.metrics)
            path = run.folder / "samples" / f"{stage.name}_{run.step:06}.png"
            draw_samples(path, result.samples, result.predictions, run.data)
            if missing:
                on_message(
                    f"{stage.name}: in the first validation no pixel was predicted as {', '.join(missing)}. If this "
                    "persists: use class weights, ohem or lovasz as loss, or crops with class_aware."
                )
        if run.metrics["miou"] > run.best_miou:
            run.best_miou, run.stale = run.metrics["miou"], 0
            save_weights(run, "best.safetensors")
        else:
            run.stale += 1
        if run.finished and run.step < run.steps:
            on_message(
                f"{stage.name}: stopped early after step {run.step} of {run.steps}, because in the last {run.stale} "
                f"validations mIoU was not better than {100 * run.best_miou:.2f} (patience={stage.patience})."
            )
    if log is not None:
        draw_curves(run.folder)


def save_weights(run: StageRun, *names: str) -> None:
    """Save the weights with their card from the first process; the averaged ones if `ema` is set."""
    with averaged_model(run.model, run.ema) as model:
        if run.fabric.is_global_zero:
            for name in names:
                save(model, run.folder / name, card=run.card)


def save_checkpoint(run: StageRun) -> None:
    """Write all that resuming needs, gathered from all processes.

    Raises: `AtrousError` for weights that are not finite, and for a full disk; the previous checkpoint stays.
    """
    state: dict[str, Any] = {
        "stage": run.number,
        "step": run.step,
        "model": gather_state(run.model),
        "optimizer": optimizer_state(run.model, run.optimizer),
        "precision": run.fabric.strategy.precision.state_dict(),
        "ema": run.ema.state_dict() if run.ema is not None else {},
        "metrics": run.metrics,
        "best_miou": run.best_miou,
        "stale": run.stale,
        "trained_images": run.card.trained_images,
    }
    if not run.fabric.is_global_zero:
        return
    for name, value in state["model"].items():
        if value.is_floating_point() and not value.isfinite().all():
            raise AtrousError(
                f"After step {run.step} of stage '{run.config.name}', {name} is not finite. The last checkpoint is "
                "from an earlier step: lower the learning rate (optimizer.lr) or clip gradients (grad_clip_norm=1)."
            )
    write_checkpoint(run.folder, state)
