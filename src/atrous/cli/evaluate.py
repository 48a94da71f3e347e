"""`atrous evaluate`: how good weights are on a data set."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atrous.errors import AtrousError

if TYPE_CHECKING:
    from rich.console import Console

    from atrous.data import SegmentationDataset
    from atrous.evaluation import Evaluation
    from atrous.inference import Segmenter


def evaluate(
    weights: Annotated[str, typer.Option("--weights", "-w", help="An id (see `atrous weights`) or a file of weights.")],
    data: Annotated[str, typer.Option("--data", "-d", help="The data set, for example 'voc2012:/path?split=val'.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder for results.json, the plots and the worst images.")
    ] = Path("evaluation"),
    tta: Annotated[
        str, typer.Option(help="What is done at test time: v2, v3, v3_plus, pspnet, refinenet, ...")
    ] = "none",
    crf: Annotated[
        str | None, typer.Option(help="Refine by the fully connected CRF of a preset: v1, v2, v2_resnet, crf_rnn.")
    ] = None,
    output_stride: Annotated[
        int | None, typer.Option(help="Run the network at this stride instead of its own: 8 is denser and slower.")
    ] = None,
    tile: Annotated[
        int | None, typer.Option(help="Look at images in windows of this side, at their own scale.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto takes the fastest there is.")] = "auto",
    boundaries: Annotated[bool, typer.Option(help="Count trimap curve, boundary IoU and boundary F too.")] = True,
    write_card: Annotated[
        bool, typer.Option("--write-card", help="Enter the figures, and this command, into the weights' card.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON instead of a table.")] = False,
) -> None:
    """Measure weights on a data set: mIoU, accuracies, boundaries; a table, JSON, plots and the worst images.

    Ctrl-C keeps what is done: the same command goes on from there.

    Examples:

      atrous evaluate -w deeplab_v3.mobilenet_v2.voc --data 'voc2012:/data/voc2012?split=val'

      atrous evaluate -w best.safetensors --data folder:/data/mine --tta v3 --output-stride 8 --write-card
    """
    from rich.console import Console

    from atrous.data.catalog import open_dataset
    from atrous.evaluation.evaluate import check_classes
    from atrous.evaluation.report import as_json as results
    from atrous.evaluation.report import write_json
    from atrous.files import check_writable
    from atrous.inference import Segmenter
    from atrous.weights import find_weights

    check_writable(out)
    path = find_weights(weights)
    if write_card and path.suffix != ".safetensors":
        raise AtrousError(f"{path}: only .safetensors files hold a card; make one with `atrous import-weights`.")
    opened = open_dataset(data)
    segmenter = Segmenter.load(path, device=device, tta=tta, tile=tile)
    if output_stride is not None:
        segmenter.model.set_output_stride(output_stride)
    check_classes(segmenter, opened)
    about = {
        "weights": weights,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "data": data,
        "tta": tta,
        "crf": crf,
        "output_stride": segmenter.model.output_stride,
        "tile": tile,
        "boundaries": boundaries,
    }
    command = shlex.join(["atrous", *sys.argv[1:]])
    found = _run(segmenter, opened, about, out, Console(stderr=True))
    result = results(found, opened.classes, command=command, **about)
    write_json(result, out / "results.json")
    if as_json:
        typer.echo(json.dumps(result))
    else:
        _print(Console(), found, opened.classes)
        typer.echo(f"-> {out / 'results.json'}")
    _draw(segmenter, opened, found, out, crf, Console(stderr=True))
    if write_card:
        _enter(path, found, f"{data} ({len(opened)} images)", command)


def _run(
    segmenter: Segmenter, data: SegmentationDataset, about: dict[str, Any], out: Path, notes: Console
) -> Evaluation:
    """With a progress bar; what an earlier run of the same settings did is not done again."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from atrous.evaluation.evaluate import evaluate as measure

    settings = json.dumps({**about, "names": hashlib.sha256("\n".join(data.names).encode()).hexdigest()})
    keep = out / f"unfinished-{hashlib.sha256(settings.encode()).hexdigest()[:8]}.npz"
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    if keep.exists():
        notes.print(f"going on from {keep}", style="dim")
    try:
        with Progress(*columns, console=notes, transient=True) as progress:
            task = progress.add_task("evaluating", total=len(data))
            found = measure(
                segmenter,
                data,
                crf=about["crf"],
                boundaries=about["boundaries"],
                keep=keep,
                settings=settings,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
    except KeyboardInterrupt:
        kept = (
            f"what is done lies in {keep}; the same command goes on from there"
            if keep.exists()
            else "nothing was done yet"
        )
        notes.print(f"stopped: {kept}.", style="yellow", soft_wrap=True)
        raise typer.Exit(130) from None
    keep.unlink(missing_ok=True)
    return found


def _print(console: Console, found: Evaluation, classes: tuple[str, ...]) -> None:
    from rich.table import Table

    table = Table("class", *(["IoU", "accuracy"] + (["boundary IoU", "boundary F"] if found.boundary else [])))
    for column in table.columns[1:]:
        column.justify = "right"
    values = [found.confusion.iou, found.confusion.accuracy]
    if found.boundary is not None:
        values += [found.boundary.iou, found.boundary.f]
    for name, *row in zip(classes, *values, strict=True):
        table.add_row(name, *("-" if math.isnan(value) else f"{100 * value:.2f}" for value in row))
    console.print(table)
    for name, value in found.figures().items():
        console.print(f"{name:>24} [bold]{100 * value:.2f}[/]")
    share = found.seconds / found.network_seconds if found.network_seconds else float("nan")
    console.print(
        f"{len(found.scores)} images in {found.seconds:.1f} s, {share:.2f} times the {found.network_seconds:.1f} s of "
        "the network; '-' is a class in neither truth nor prediction, left out of means",
        style="dim",
        highlight=False,
    )


def _draw(
    segmenter: Segmenter, data: SegmentationDataset, found: Evaluation, out: Path, crf: str | None, notes: Console
) -> None:
    from atrous.evaluation.evaluate import predict
    from atrous.evaluation.report import draw_worst, plot_confusion, plot_trimap

    rows = []
    for index in found.worst():
        sample = data[index]
        kept = found.kept.get(index)
        rows.append((sample.image, sample.labels, predict(segmenter, sample.image, crf) if kept is None else kept))
    draw_worst(rows, data.colors, data.ignore_index, out / "worst.png")
    try:
        plot_trimap(found, out / "trimap.png")
        plot_confusion(found, data.classes, out / "confusion.png")
    except AtrousError as error:
        notes.print(str(error), style="dim")


def _enter(path: Path, found: Evaluation, data: str, command: str) -> None:
    """Figures of the same name, data and command are replaced, others stay."""
    from atrous.card import Measurement
    from atrous.weights import read_card, write_card

    card = read_card(path)
    new = [
        Measurement(name=name, value=round(100 * value, 2), data=data, command=command)
        for name, value in found.figures().items()
        if not math.isnan(value)
    ]
    keys = {(figure.name, figure.data, figure.command) for figure in new}
    old = [figure for figure in card.measured if (figure.name, figure.data, figure.command) not in keys]
    write_card(path, card.model_copy(update={"measured": (*old, *new)}))
