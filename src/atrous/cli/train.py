"""`atrous train`: train a network by a recipe, or any network on a data set."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atrous.cli.options import MaxPixels
from atrous.console import make_console, print_line, styled
from atrous.errors import AtrousError
from atrous.progress import make_progress, progress_bar

if TYPE_CHECKING:
    from rich.console import Console

    from atrous.data.dataset import SegmentationDataset
    from atrous.training import Recipe, TrainProgress, TrainResult
    from atrous.training.config import StageConfig


class Strategy(str, Enum):
    """Strategy for training one network on several processes."""

    ddp = "ddp"
    fsdp = "fsdp"


MAX_PROBLEMS = 5
"""Problems of each kind that are printed; `atrous inspect` prints all."""


def train(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE] [KEY=VALUE]...",
            help="A recipe, by name or file, and keys to override in it.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Without a recipe: the id of a network, see `atrous models`.")] = "",
    data: Annotated[
        list[str] | None,
        typer.Option(help="A data set and its folder (voc2012:/path), or a folder of your own; may be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run folder; runs/RECIPE by default.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in the folder; see the last example.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps; auto is the fastest one available.")] = "auto",
    devices: Annotated[int, typer.Option(min=0, help="Number of devices; 0 for all available.")] = 0,
    strategy: Annotated[
        Strategy, typer.Option(help="ddp: each process holds the whole network; fsdp: the network is sharded.")
    ] = Strategy.ddp,
    check: Annotated[
        bool, typer.Option(help="Check every image and mask before training, and stop if there are errors.")
    ] = True,
    max_pixels: MaxPixels = None,
    keys: Annotated[
        bool, typer.Option("--keys", help="List all keys with type, default and meaning, and stop.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the data, print the plan, and stop.")] = False,
) -> None:
    """Train a network by a paper's recipe, or any network on a folder of your own.

    With --model, the backbone starts from ImageNet weights where there are any, downloaded once; without a connection,
    a note says so and it starts from random weights, as with backbone_weights=none.

    Examples:

      atrous train deeplab_v3_resnet101_voc --data voc2012:/data/VOC2012

      atrous train --model deeplab_v3_plus.mobilenet_v2 --data my-photographs epochs=50 batch=8

      atrous train camvid_deeplab_v3_plus_mobilenet_v2 --data camvid:/data/CamVid --out runs/street --resume

      torchrun --nproc-per-node 4 -m atrous.cli.main train pspnet_resnet101_voc --data voc2012:/data/VOC2012

      atrous train --resume runs/street epochs=80
    """
    from atrous.training.fabric import check_requirements
    from atrous.training.run_dir import RECIPE

    if keys:
        _print_keys()
        return
    first_process = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0
    console = make_console()
    console.quiet = not first_process
    words, specs = list(arguments or []), list(data or [])
    if (run := _find_run(words, resume)) is not None:
        words = [str(run / RECIPE) if Path(word) == run else word for word in words]
        out = out or run
    if model and resume:
        name = next((word.partition("=")[2] for word in reversed(words) if word.startswith("name=")), model)
        words += _initial_weights_of_run(words, out or Path("runs") / name)
    recipe, download = (
        _read_without_download(words, model, specs) if dry_run else (_read_recipe(words, model, specs), "")
    )
    check_requirements()
    drop_unavailable = partial(_drop_unavailable, console, words, model, specs)
    if not resume:
        recipe = drop_unavailable(recipe, download=False)
    if first_process:
        start = "the checkpoint of the run" if resume else download
        with _downloads(allowed=not dry_run):
            _check_and_plan(console, recipe, check=check and not resume, initial_weights=start)
    if dry_run:
        return
    if not resume:
        recipe = drop_unavailable(recipe, download=True)
    options = {
        "resume": resume,
        "accelerator": {"cuda": "gpu"}.get(device, device),
        "devices": devices or "auto",
        "strategy": strategy.value,
    }
    result = _train(console, recipe, out or Path("runs") / recipe.name, options, quiet=not first_process)
    if first_process:
        _print_result(console, result)


def _read_recipe(words: list[str], model: str, data: list[str]) -> Recipe:
    """Read the recipe named by the word without an equals sign, or make one for `--model`."""
    from atrous.training.default_recipe import default_recipe
    from atrous.training.recipe import list_recipes, read_recipe

    names = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    if len(names) > 1:
        raise AtrousError(f"Give one recipe, not {' and '.join(names)}; overrides are written key=value.")
    if names and model:
        raise AtrousError(f"Give a recipe or --model; to train another network by {names[0]}, write model={model}.")
    if names:
        return read_recipe(names[0], overrides, data)
    if not model or not data:
        raise AtrousError(
            f"Give a recipe ({', '.join(list_recipes())}), or a network with --model and its data with --data."
        )
    return default_recipe(model, data, overrides)


def _print_keys() -> None:
    """Print all keys of a recipe, each with its meaning below."""
    from atrous.training.keys import list_keys

    for key, kind, default, meaning in list_keys():
        print_line("[bold]{}[/]  {}{}", key, kind, f", default {default}" if default not in ("", "required") else "")
        print_line("    {}", meaning)


def _find_run(words: list[str], resume: bool) -> Path | None:
    """Find the run folder among the words, which `--resume` may name instead of a recipe.

    Raises: `AtrousError` for a run folder without `--resume`.
    """
    from atrous.training.run_dir import RECIPE

    for word in words:
        if "=" not in word and (Path(word) / RECIPE).is_file():
            if not resume:
                raise AtrousError(
                    f"{word} is a run: continue it with --resume, or train by its recipe with {Path(word) / RECIPE}."
                )
            return Path(word)
    return None


def _initial_weights_of_run(words: list[str], folder: Path) -> list[str]:
    """Start from the backbone weights that a run started from: perhaps none, because they were unavailable then."""
    from atrous.training.default_recipe import sets_initial_weights
    from atrous.training.recipe import read_recipe
    from atrous.training.run_dir import RECIPE

    if sets_initial_weights(word for word in words if "=" in word) or not (folder / RECIPE).is_file():
        return []
    return [f"backbone_weights={read_recipe(folder / RECIPE).stages[0].backbone_weights}"]


def _drop_unavailable(
    console: Console, words: list[str], model: str, data: list[str], recipe: Recipe, *, download: bool
) -> Recipe:
    """Download the ImageNet weights that `--model` starts from by itself; without a connection, start from nothing."""
    from atrous.training.default_recipe import sets_initial_weights
    from atrous.training.required_files import why_unavailable

    if not model or sets_initial_weights(word for word in words if "=" in word):
        return recipe
    reason = why_unavailable(recipe, download=download)
    if not reason:
        return recipe
    note = f"training starts from random weights, because ImageNet weights are unavailable: {reason}"
    print_line("[yellow]note[/]: {}", note, console=console)
    return _read_recipe([*words, "backbone_weights=none"], model, data)


def _read_without_download(words: list[str], model: str, data: list[str]) -> tuple[Recipe, str]:
    """Read a recipe for a dry run; initial weights that would be downloaded are left out of it, and described."""
    from atrous.weights.find import DownloadNeededError, downloads_disabled

    try:
        with downloads_disabled():
            return _read_recipe(words, model, data), ""
    except DownloadNeededError as error:  # their card is unknown too: normalization, corners
        return _read_recipe([*words, "weights="], model, data), f"weights, to be downloaded from {error.url}"


def _downloads(*, allowed: bool) -> AbstractContextManager[None]:
    from atrous.weights.find import downloads_disabled

    return nullcontext() if allowed else downloads_disabled()


def _check_and_plan(console: Console, recipe: Recipe, *, check: bool, initial_weights: str) -> None:
    from atrous.training.initialize import initial_images
    from atrous.training.loader import add_trained_images
    from atrous.training.required_files import resolve_files
    from atrous.weights.find import DownloadNeededError

    opened, initial_weights = resolve_files(recipe, initial_weights)
    checked: set[str] = set()
    try:
        trained = initial_images(recipe.stages[0], None)
    except DownloadNeededError:
        trained = ""  # a dry run
    for stage, (train_data, val) in zip(recipe.stages, opened, strict=True):
        trained = add_trained_images(trained, train_data, val, stage.data)
        if check and (key := f"{stage.data.train} {stage.data.val}") not in checked:
            checked.add(key)
            _check_data(console, [train_data, *([val] if val is not None else [])])
        _print_plan(console, recipe, stage, train_data, val, initial_weights if stage is recipe.stages[0] else "")


def _check_data(console: Console, datasets: list[SegmentationDataset]) -> None:
    """Check every image and mask by the rules of `atrous inspect`, and print the problems.

    Raises: `AtrousError` listing the first errors.
    """
    from atrous.data.inspect import inspect_splits

    with progress_bar("checking labels") as on_progress:
        report = inspect_splits(datasets, on_progress=on_progress)
    errors = [problem for problem in report.errors if problem.kind != "leak"]
    if errors:
        listed = "\n".join(f"  {problem.message}" for problem in errors[:MAX_PROBLEMS])
        more = f"\n  and {len(errors) - MAX_PROBLEMS} more, see `atrous inspect`" if len(errors) > MAX_PROBLEMS else ""
        raise AtrousError(
            f"{len(errors)} error{'s' * (len(errors) > 1)} in the data; nothing was trained:\n{listed}{more}"
        )
    leaks = [problem for problem in report.errors if problem.kind == "leak"]
    notes = [problem.message for problem in report.warnings[:MAX_PROBLEMS]]
    if leaks:
        overlap = f"{len(leaks)} images are in both the training and the validation data, so the metrics are biased"
        notes.insert(0, f"{overlap}: {leaks[0].message}")
    for note in notes:
        print_line("[yellow]note[/]: {}", note, console=console)


def _print_plan(
    console: Console,
    recipe: Recipe,
    stage: StageConfig,
    data: SegmentationDataset,
    val: SegmentationDataset | None,
    initial_weights: str,
) -> None:
    from rich.table import Table

    from atrous.analysis.memory import bytes_text
    from atrous.training.plan import make_plan, summarize

    plan = make_plan(recipe, stage, data, val, processes=int(os.environ.get("WORLD_SIZE", 1)))
    table = Table(show_header=False, box=None, title=styled("{}: {}", recipe.name, stage.name), title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    trainable = "" if plan.trainable == plan.parameters else f", {plan.trainable:,} of them trainable"
    validation = "no validation" if val is None else f"validation on {plan.val_images:,} of {val.name} {val.split}"
    rows = {
        "network": f"{stage.model.id}, {plan.parameters:,} parameters{trainable}",
        "data": f"{data.name} {data.split}, {plan.images:,} images, {len(data.classes)} classes; {validation}",
        **({"initial weights": initial_weights} if initial_weights else {}),
        "steps": f"{plan.steps:,} of {stage.batch} images of {plan.crop[1]} x {plan.crop[0]}, {plan.epochs:.1f} epochs",
        **summarize(stage),
        "memory": f"about {bytes_text(plan.memory)} per process",
    }
    for key, value in rows.items():
        table.add_row(key, value)
    console.print(table)


def _train(console: Console, recipe: Recipe, folder: Path, options: dict[str, Any], *, quiet: bool) -> TrainResult:
    """Train with a progress bar per stage that shows loss, learning rate and mIoU."""
    from atrous.training import train
    from atrous.training.fabric import TrainingInterrupted

    with make_progress(field="figures", console=console, disable=quiet, speed_estimate_period=300) as bar:
        tasks: dict[str, Any] = {}

        def show(progress: TrainProgress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bar.add_task(progress.stage, total=progress.steps, figures="")
            miou = "" if progress.miou is None else f", mIoU {100 * progress.miou:.2f}"
            figures = f"loss {progress.loss:.4f}, lr {progress.lr:.2e}{miou}"
            bar.update(tasks[progress.stage], completed=progress.step, figures=figures)

        def print_message(message: str) -> None:
            if not quiet:
                print_line("{}", message, console=bar.console)

        try:
            return train(recipe, folder, on_progress=show, on_message=print_message, **options)
        except TrainingInterrupted as stop:
            words = [word for word in sys.argv[1:] if word not in ("--resume", "--check", "--no-check")]
            message = f"stopped after step {stop.step}; continue with: {shlex.join(['atrous', *words, '--resume'])}"
            if not quiet:
                typer.echo(message, err=True)
            raise typer.Exit(128 + stop.signal) from None


def _print_result(console: Console, result: TrainResult) -> None:
    from rich.table import Table

    table = Table("stage", "mIoU", "pixel accuracy", "mean accuracy")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, metrics in result.stages.items():
        cells = (metrics.get(key) for key in ("miou", "pixel_accuracy", "mean_accuracy"))
        table.add_row(name, *("-" if value is None else f"{100 * value:.2f}" for value in cells))
    console.print(table)
    last = list(result.stages.values())[-1] if result.stages else {}
    classes = {key.removeprefix("iou "): value for key, value in last.items() if key.startswith("iou ")}
    if classes:
        listed = ", ".join(f"{name} {100 * value:.1f}" for name, value in classes.items())
        print_line("IoU: {}", listed, console=console)
    for path in (result.best, result.last, result.folder / "curves.png"):
        if path is not None and path.is_file():
            print_line("[dim]->[/] {}", path, console=console)
