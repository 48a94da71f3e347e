"""`atrous evaluate`: measure a network on a data set."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atrous.cli.crf import CRF
from atrous.cli.options import (
    TTA,
    AllowOverlap,
    Device,
    Engine,
    MaxPixels,
    OutputStride,
    Overwrite,
    Precision,
    Tile,
    check_outside,
    load_segmenter,
)
from atrous.cli.scale import Address, NumCpus, NumGpus, Ray, Workers, cluster_resources
from atrous.console import make_console, print_line
from atrous.errors import AtrousError
from atrous.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable

    from atrous.data import SegmentationDataset
    from atrous.evaluation import EvaluationResult
    from atrous.evaluation.submit import Server
    from atrous.inference import Segmenter
    from atrous.progress import OnProgress
    from atrous.scale.cluster import Resources
    from atrous.scale.predict import NetworkOptions

OUTPUTS = ("results.json", "trimap.png", "confusion.png", "worst.png")
"""The files of an evaluation."""


def evaluate(
    weights: Annotated[str, typer.Option("--weights", "-w", help="An id (see `atrous weights`) or a file of weights.")],
    data: Annotated[str, typer.Option("--data", "-d", help="A data set, for example 'voc2012:/path?split=val'.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The folder for results.json, plots and the worst images; with --submit the archive; by default "
            "'evaluation'.",
        ),
    ] = None,
    tta: TTA = "none",
    crf: CRF = None,
    output_stride: OutputStride = None,
    tile: Tile = None,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    boundaries: Annotated[bool, typer.Option(help="Compute trimap curve, boundary IoU and boundary F too.")] = True,
    allow_overlap: AllowOverlap = False,
    write_card: Annotated[
        bool,
        typer.Option(
            "--write-card",
            help="Store the metrics and this command in the card of the weights; those of the package or the cache are "
            "copied to the folder of -o.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON instead of a table.")] = False,
    submit: Annotated[
        str | None,
        typer.Option(
            help="Write the predictions as an archive for a test server instead: voc (comp6), voc_comp5 or cityscapes."
        ),
    ] = None,
    max_pixels: MaxPixels = None,
    overwrite: Overwrite = False,
    ray: Ray = False,
    address: Address = None,
    workers: Workers = None,
    num_cpus: NumCpus = 1,
    num_gpus: NumGpus = None,
) -> None:
    """Evaluate a network on a data set: mIoU, accuracies and boundary metrics.

    Prints a table of all classes and writes results.json, plots and the worst images to a folder. Ctrl-C saves the
    counts so far: the same command resumes from there. With --submit no metrics are computed: the predictions, of a
    test split without labels too, are written as the evaluation server expects them.

    Examples:

      atrous evaluate -w deeplab_v3.mobilenet_v2.voc --data 'voc2012:/data/voc2012?split=val'

      atrous evaluate -w best.safetensors --data folder:/data/mine --tta v3 --output-stride 8 --write-card

      atrous evaluate -w best.safetensors --data 'voc2012:/data/voc2012?split=test' --submit voc -o results.tgz
    """
    from atrous.crf import get_preset
    from atrous.data.catalog import open_dataset
    from atrous.evaluation import evaluate as run_evaluation
    from atrous.evaluation.evaluate import check_classes
    from atrous.evaluation.report import MARK, add_to_card
    from atrous.evaluation.submit import get_server
    from atrous.files import check_writable
    from atrous.marks import check_replaceable
    from atrous.weights import find_weights

    resources = cluster_resources(ray, address, workers, num_cpus, num_gpus)
    if resources is not None and submit is not None:
        raise AtrousError("--submit writes its archive in this process: remove --ray.")
    path = find_weights(weights)
    copy = _card_copy(path, out) if write_card else None
    out = out or Path("evaluation")
    check_writable(out if submit is None else out.parent)
    if submit is None:
        check_replaceable([out / name for name in OUTPUTS], MARK, overwrite=overwrite)
    if crf is not None:
        get_preset(crf)
    if copy is not None:
        check_replaceable([copy], None, overwrite=overwrite, inputs=[path])
    if write_card and submit is not None:
        raise AtrousError("--submit computes no metrics to store in the card: remove --write-card.")
    if write_card and path.suffix != ".safetensors":
        raise AtrousError(f"{path}: only .safetensors files have a card; make one with `atrous import-weights`.")
    dataset = open_dataset(data)
    _say_split(dataset, data)
    check_outside(out, [dataset])
    server = None if submit is None else get_server(submit, dataset, out)
    if server is not None:
        check_replaceable([out], None, overwrite=overwrite)
    segmenter = load_segmenter(
        path,
        device=device,
        tta=tta,
        tile=tile,
        output_stride=output_stride,
        engine=engine,
        precision=precision,
        throughput=True,
    )
    check_classes(segmenter.card, dataset)
    if server is not None:
        _submit(segmenter, dataset, server, out, crf)
        return
    settings = {
        "weights": weights,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "data": data,
        "tta": tta,
        "crf": crf,
        "output_stride": segmenter.output_stride,
        "engine": engine if ray else segmenter.engine.name,  # workers may have other devices than this machine
        "precision": segmenter.engine.precision,
        "tile": tile,
        "boundaries": boundaries,
    }
    command = shlex.join(["atrous", *sys.argv[1:]])
    run: Callable[..., EvaluationResult] = run_evaluation
    if resources is not None:
        from atrous.scale.predict import NetworkOptions

        network = NetworkOptions(device, tta, tile, output_stride, engine, precision)
        run = partial(_run_on_cluster, weights=path, network=network, address=address, resources=resources)
    fingerprint = {**settings, "sha256": _digest_network(path)}
    result, checkpoint = _run(run, segmenter, dataset, fingerprint, out, allow_overlap=allow_overlap)
    _report(
        result, dataset, {"command": command, **settings, "split": dataset.split}, out / "results.json", as_json=as_json
    )
    _write_plots(result, dataset, out)
    _write_worst_images(segmenter, dataset, result, crf, out)
    if write_card:
        add_to_card(path, result, f"{data} ({len(dataset)} images)", command, copy)
    checkpoint.unlink(missing_ok=True)


def _say_split(dataset: SegmentationDataset, spec: str) -> None:
    """Tell which split is evaluated if none was named and there are others."""
    from atrous.data.catalog import DatasetSpec

    others = [split for split in dataset.splits if split != dataset.split]
    if others and "split" not in DatasetSpec.parse(spec).options:
        template = "[yellow]note[/]: no split is named, so this is {} of {}, {:,} images; for another: --data '{}'"
        base, _, options = spec.partition("?")
        query = f"{options}&" if options else ""
        place = f"{base}?{query}split={others[0]}"
        print_line(template, dataset.split, dataset.name, len(dataset), place, stderr=True)


def _card_copy(weights: Path, out: Path | None) -> Path | None:
    """Choose the file for a copy of weights that are read-only; None for weights whose card is replaced.

    Raises: `AtrousError` if the folder to write to is not given.
    """
    from atrous.weights.find import is_read_only

    if not is_read_only(weights):
        return None
    if out is None:
        raise AtrousError(
            f"{weights} belongs to the package or the cache and is read-only: name a folder with -o, to which "
            "--write-card writes a copy with the card."
        )
    return out / weights.name


def _digest_network(weights: Path) -> str:
    """Compute the SHA-256 of all files of weights, without the figures in a card, which --write-card adds to."""
    from atrous.weights.header import has_card, read_header
    from atrous.weights.importers.formats import digest_files

    header = read_header(weights) if has_card(weights) else None
    if header is None or header.digest is None:
        return digest_files(weights)
    content = header.card.model_dump_json(exclude={"measured"}) + header.digest
    return hashlib.sha256(content.encode()).hexdigest()


def _submit(segmenter: Segmenter, dataset: SegmentationDataset, server: Server, archive: Path, crf: str | None) -> None:
    """Write the archive for a test server with a progress bar."""
    from atrous.evaluation.submit import submit

    with progress_bar("segmenting") as on_progress:
        submit(segmenter, dataset, server, archive, crf=crf, on_progress=on_progress)
    if (dataset.split, len(dataset)) != ("test", server.images):
        template = "[yellow]note[/]: the server expects the {:,} images of the split test; these are {:,} of {}"
        print_line(template, server.images, len(dataset), dataset.split)
    print_line("{:,} images -> {}", len(dataset), archive)


def _run_on_cluster(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    *,
    weights: Path,
    network: NetworkOptions,
    address: str | None,
    resources: Resources,
    on_progress: OnProgress,
    **options: Any,
) -> EvaluationResult:
    """Evaluate on a cluster, with the arguments of an evaluation in this process."""
    from atrous.scale.evaluate import evaluate
    from atrous.scale.jobs import JobOptions

    where = JobOptions(address, resources, on_progress=on_progress)
    return evaluate(segmenter, dataset, weights, network, where, **options)


def _run(
    run: Callable[..., EvaluationResult],
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    settings: dict[str, Any],
    out: Path,
    *,
    allow_overlap: bool,
) -> tuple[EvaluationResult, Path]:
    """Evaluate with a progress bar, resuming from an interrupted evaluation with the same settings.

    Returns: the result, and the checkpoint, which is to be removed once the result is written.
    """
    names = hashlib.sha256("\n".join(dataset.names).encode()).hexdigest()
    fingerprint = json.dumps({**settings, "names": names})
    checkpoint = out / f"unfinished-{hashlib.sha256(fingerprint.encode()).hexdigest()[:8]}.npz"
    if checkpoint.exists():
        print_line("[dim]resuming from {}[/]", checkpoint, stderr=True)
    try:
        with progress_bar("evaluating") as on_progress:
            on_progress(0, len(dataset))
            result = run(
                segmenter,
                dataset,
                crf=settings["crf"],
                boundaries=settings["boundaries"],
                allow_overlap=allow_overlap,
                checkpoint=checkpoint,
                settings=fingerprint,
                on_progress=on_progress,
            )
    except KeyboardInterrupt:
        saved = f"saved the counts so far to {checkpoint}; the same command resumes from there"
        message = saved if checkpoint.exists() else "no image was finished"
        print_line("[yellow]stopped: {}.[/]", message, stderr=True)
        raise typer.Exit(130) from None
    return result, checkpoint


def _report(
    result: EvaluationResult, dataset: SegmentationDataset, settings: dict[str, Any], path: Path, *, as_json: bool
) -> None:
    """Write the results to a JSON file, and print them as JSON or as a table."""
    from atrous.evaluation.report import MARK, result_to_dict
    from atrous.files import write_json

    report = result_to_dict(result, dataset.classes, **settings)
    write_json(path, {"mark": str(MARK), **report})
    if as_json:
        typer.echo(json.dumps(report))
        return
    _print_table(result, dataset)
    print_line("-> {}", path)


def _print_table(result: EvaluationResult, dataset: SegmentationDataset) -> None:
    from rich.table import Table

    table = Table("class", *(["IoU", "accuracy"] + (["boundary IoU", "boundary F"] if result.boundary else [])))
    for column in table.columns[1:]:
        column.justify = "right"
    values = [result.confusion.iou, result.confusion.accuracy]
    if result.boundary is not None:
        values += [result.boundary.iou, result.boundary.f_score]
    for name, *row in zip(dataset.classes, *values, strict=True):
        table.add_row(name, *("-" if math.isnan(value) else f"{100 * value:.2f}" for value in row))
    make_console().print(table)
    for name, value in result.metrics().items():
        print_line("{:>24} [bold]{:.2f}[/]", name, 100 * value)
    print_line(
        "[dim]{} images of {} {} in {:.1f} s, of which {:.1f} s in the network; '-' marks a class in neither truth nor "
        "prediction, which is left out of means[/]",
        *(len(result.image_scores), dataset.name, dataset.split, result.seconds, result.network_seconds),
    )


def _write_plots(result: EvaluationResult, dataset: SegmentationDataset, out: Path) -> None:
    from atrous.evaluation.report import plot_confusion, plot_trimap

    try:
        plot_trimap(result, out / "trimap.png")
        plot_confusion(result, dataset.classes, out / "confusion.png")
    except AtrousError as error:  # without matplotlib
        print_line("[dim]{}[/]", error, stderr=True)


def _write_worst_images(
    segmenter: Segmenter, dataset: SegmentationDataset, result: EvaluationResult, crf: str | None, out: Path
) -> None:
    from atrous.evaluation.report import draw_worst_images
    from atrous.imaging.draw import Comparison
    from atrous.inference.refine import segment

    rows = []
    for index in result.worst():
        sample = dataset[index]
        prediction = result.worst_predictions.get(index)
        if prediction is None:  # counted before an interruption
            prediction = segment(segmenter, sample.image, crf).labels
        caption = f"{sample.name}: mean IoU {100 * result.image_scores[index]:.2f}; image, ground truth, prediction"
        rows.append(Comparison(sample.image, sample.labels, prediction, caption))
    draw_worst_images(rows, dataset.classes, dataset.colors, out / "worst.png")
