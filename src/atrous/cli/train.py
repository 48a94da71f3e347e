"""`atrous train`: a recipe, or a network and a data set, to weights."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atrous.errors import AtrousError
from atrous.progress import make_progress, progress_bar

if TYPE_CHECKING:
    from rich.console import Console

    from atrous.data.dataset import SegmentationDataset
    from atrous.training.recipe import Recipe
    from atrous.training.run import Progress, Result


class Strategy(str, Enum):
    """How several processes train one network."""

    ddp = "ddp"
    fsdp = "fsdp"


SHOWN = 5
"""Findings of each sort that are printed; `atrous inspect` has all."""


def train(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE] [KEY=VALUE]...",
            help="A recipe, by name or file, and what to change in it.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Without a recipe: a network by id, see `atrous models`.")] = "",
    data: Annotated[
        list[str] | None,
        typer.Option(help="Where a data set lies (voc2012:/path), or a folder of your own; may be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run folder; runs/RECIPE by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps; auto takes the fastest there is.")] = "auto",
    devices: Annotated[int, typer.Option(min=0, help="How many of them; 0 is all there are.")] = 0,
    strategy: Annotated[
        Strategy, typer.Option(help="ddp: each of several has the whole network; fsdp: they share it out.")
    ] = Strategy.ddp,
    check: Annotated[bool, typer.Option(help="Open every image and mask before, and refuse what is wrong.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the data, print the plan, and stop.")] = False,
) -> None:
    """Train a network: by a paper's recipe, or any network on a folder of your own.

    Examples:

      atrous train deeplab_v3_resnet101_voc --data voc2012:/data/VOC2012

      atrous train --model deeplab_v3_plus.mobilenet_v2 --data my-photographs epochs=50 batch=8

      atrous train camvid_deeplab_v3_plus_mobilenet_v2 --data camvid:/data/CamVid --out runs/street --resume

      torchrun --nproc-per-node 4 -m atrous.cli.main train pspnet_resnet101_voc --data voc2012:/data/VOC2012
    """
    from rich.console import Console

    console = Console()
    recipe = _recipe(list(arguments or []), model, list(data or []))
    folder = out or Path("runs") / recipe.name
    _check_extra()
    first = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0
    if first:
        _check_and_plan(console, recipe, check=check and not resume)
    if dry_run:
        return
    result = _run(
        console, recipe, folder, resume=resume, quiet=not first, device=device, devices=devices, strategy=strategy.value
    )
    if first:
        _report(console, result)


def _recipe(words: list[str], model: str, data: list[str]) -> Recipe:
    """The recipe of a command line: the first word without an equals sign, or one of a network's own."""
    from atrous.models import MODELS
    from atrous.training.recipe import list_recipes, make_recipe, own_data, read_recipe

    named = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    if len(named) > 1:
        raise AtrousError(f"One recipe at a time, not {' and '.join(named)}; what changes it is written key=value.")
    if named and model:
        raise AtrousError(f"Give a recipe or --model; to train another network by {named[0]}, write model={model}.")
    if named:
        return read_recipe(named[0], overrides).at(data)
    if not model or not data:
        raise AtrousError(
            f"Give a recipe ({', '.join(list_recipes())}), or a network with --model and its data with --data."
        )
    aligned = "align_corners" in MODELS.entry(model).arguments() and _aligned_start(overrides)
    tree: dict[str, Any] = {
        "name": model,
        "model": {"id": model, "options": {"align_corners": True} if aligned else {}},
        "preprocessing": {"grid": 16} if aligned else {},
        "data": own_data(data[0]).model_dump(),
        "transforms": [
            {"scale": {"low": 0.5, "high": 2.0}},
            {"crop": {"height": 513, "width": 513}},
            "flip",
        ],
        "optimizer": {"lr": 0.01},
    }
    if not any(word.startswith(("steps=", "epochs=")) for word in overrides):
        tree["epochs"] = 50
    return make_recipe(tree, overrides, where=f"--model {model}").at(data[1:])


def _aligned_start(overrides: list[str]) -> bool:
    """Whether corners are aligned: as the weights to start from have it, else yes, for crops are of 16 k + 1 pixels."""
    from atrous.weights import read_card

    weights = [word.partition("=")[2] for word in overrides if word.startswith("weights=")]
    return read_card(weights[-1]).align_corners if weights else True


def _check_extra() -> None:
    try:
        import lightning  # noqa: F401
        import matplotlib  # noqa: F401
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise AtrousError(f"Training needs {error.name}: pip install 'atrous[train]'.") from error


def _check_and_plan(console: Console, recipe: Recipe, *, check: bool) -> None:
    from atrous.data import open_dataset
    from atrous.training.loader import open_training_data

    checked: set[str] = set()
    for stage in recipe.stages:
        train_data = open_training_data(stage.data)
        val = open_dataset(stage.data.val) if stage.data.val else None
        if check and (key := f"{stage.data.train} {stage.data.val}") not in checked:
            checked.add(key)
            _check(console, [train_data, *([val] if val is not None and val.classes == train_data.classes else [])])
        _plan(console, recipe, stage, train_data, val)


def _check(console: Console, datasets: list[SegmentationDataset]) -> None:
    """Look at every image and mask by the rules of `atrous inspect`.

    Raises: `AtrousError` with the first of what is wrong.
    """
    from atrous.data.inspect import inspect_splits

    with progress_bar("checking labels") as on_progress:
        found = inspect_splits(datasets, on_progress=on_progress)
    wrong = [finding for finding in found.errors if finding.kind != "leak"]
    if wrong:
        listed = "\n".join(f"  {finding.message}" for finding in wrong[:SHOWN])
        more = f"\n  and {len(wrong) - SHOWN} more, see `atrous inspect`" if len(wrong) > SHOWN else ""
        raise AtrousError(f"{len(wrong)} things are wrong with the data; nothing was trained:\n{listed}{more}")
    leaks = [finding for finding in found.errors if finding.kind == "leak"]
    if leaks:
        text = f"{len(leaks)} images are both learned and judged, so the figures say little: {leaks[0].message}"
        console.print(f"[yellow]note[/]: {text}", soft_wrap=True, highlight=False)
    for finding in found.warnings[:SHOWN]:
        console.print(f"[yellow]note[/]: {finding.message}", soft_wrap=True, highlight=False)


def _plan(
    console: Console, recipe: Recipe, stage: Any, data: SegmentationDataset, val: SegmentationDataset | None
) -> None:
    from rich.table import Table

    from atrous.training.plan import make_plan, settings, with_unit

    plan = make_plan(recipe, stage, data, val, processes=int(os.environ.get("WORLD_SIZE", 1)))
    table = Table(show_header=False, box=None, title=f"{recipe.name}: {stage.name}", title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    learning = "" if plan.learning == plan.parameters else f", {plan.learning:,} of them learn"
    rows = {
        "network": f"{stage.model.id}, {plan.parameters:,} parameters{learning}",
        "data": f"{data.name} {data.split}, {plan.images:,} images, {len(data.classes)} classes"
        + (f"; judged on {plan.val_images:,} of {val.name} {val.split}" if val is not None else "; not judged"),
        "steps": f"{plan.steps:,} of {stage.batch} images of {plan.crop[1]} x {plan.crop[0]}, {plan.epochs:.1f} epochs",
        **settings(stage),
        "memory": f"about {with_unit(plan.memory)} for each process",
    }
    for key, value in rows.items():
        table.add_row(key, value)
    console.print(table)


def _run(
    console: Console,
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool,
    quiet: bool,
    device: str,
    devices: int,
    strategy: str,
) -> Result:
    from atrous.training import train

    with make_progress(field="figures", console=console, disable=quiet, speed_estimate_period=300) as bar:
        tasks: dict[str, Any] = {}

        def show(progress: Progress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bar.add_task(progress.stage, total=progress.steps, figures="")
            judged = "" if progress.miou is None else f", mIoU {100 * progress.miou:.2f}"
            bar.update(
                tasks[progress.stage],
                completed=progress.step,
                figures=f"loss {progress.loss:.4f}, lr {progress.lr:.2e}{judged}",
            )

        def say(message: str) -> None:
            if not quiet:
                bar.console.print(message, soft_wrap=True, highlight=False, markup=False)

        return train(
            recipe,
            folder,
            resume=resume,
            accelerator={"cuda": "gpu"}.get(device, device),
            devices=devices or "auto",
            strategy=strategy,
            on_progress=show,
            on_message=say,
        )


def _report(console: Console, result: Result) -> None:
    from rich.table import Table

    table = Table("stage", "mIoU", "pixel accuracy", "mean accuracy")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, figures in result.stages.items():
        cells = (figures.get(key) for key in ("miou", "pixel_accuracy", "mean_accuracy"))
        table.add_row(name, *("-" if value is None else f"{100 * value:.2f}" for value in cells))
    console.print(table)
    last = list(result.stages.values())[-1] if result.stages else {}
    classes = {key.removeprefix("iou "): value for key, value in last.items() if key.startswith("iou ")}
    if classes:
        listed = ", ".join(f"{name} {100 * value:.1f}" for name, value in classes.items())
        console.print(f"IoU: {listed}", soft_wrap=True, highlight=False)
    for path in (result.best, result.last, result.folder / "curves.png"):
        if path is not None and path.is_file():
            console.print(f"[dim]->[/] {path}", soft_wrap=True)
