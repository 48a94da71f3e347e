"""`atrous benchmark`: compare the engines and precisions of a network on this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atrous.cli.options import OutputStride, parse_size
from atrous.console import make_console
from atrous.progress import progress_bar

if TYPE_CHECKING:
    from atrous.inference.benchmark import Benchmark, Timing


def benchmark(
    weights: Annotated[str, typer.Option("--weights", "-w", help="An id or a file of weights, or an exported file.")],
    size: Annotated[str, typer.Option(help="Height and width of the network's input.")] = "513x513",
    engine: Annotated[
        list[str] | None,
        typer.Option(help="An engine, or ENGINE:PRECISION; repeat for several. Default: all installed."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 1,
    output_stride: OutputStride = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed forward passes of each engine.")] = 15,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Time the network alone with each engine and precision, in turns, each in a process of its own.

    The table shows the median time and the tenth to ninetieth percentile, images and multiply-adds per second, the
    share of the peak that PyTorch reaches on this machine in that precision, peak memory, and the largest difference
    of the scores from eager PyTorch, relative to the largest score.

    Examples:

      atrous benchmark -w deeplab_v3_plus.efficientnet_lite0.camvid --size 360x480

      atrous benchmark -w model.safetensors --engine onnxruntime --engine openvino:bfloat16 --batch 4
    """
    from atrous.inference.benchmark import benchmark_engines

    with progress_bar("timing") as on_progress:
        result = benchmark_engines(
            weights,
            _configurations(weights, engine),
            size=parse_size(size),
            batch=batch,
            output_stride=output_stride,
            rounds=rounds,
            on_progress=on_progress,
        )
    rows = [_row(result, timing) for timing in result.timings]
    if as_json:
        typer.echo(json.dumps({"weights": weights, "size": size, "batch": batch, "rows": rows}))
    else:
        _print_table(rows)


def _configurations(weights: str, engines: list[str] | None) -> list[tuple[str, str]]:
    """Split ENGINE:PRECISION, by default float32; without engines, list all that can run the weights."""
    from atrous.inference.engines.create import EXPORTED, create_engine, is_installed
    from atrous.weights import find_weights

    if not engines:
        path = find_weights(weights)
        if path.suffix in EXPORTED:
            exported = create_engine(path)
            return [(exported.name, exported.precision)]
        engines = ["torch", *filter(is_installed, ("onnxruntime", "openvino"))]
        engines += ["openvino:bfloat16"] if "openvino" in engines else []
    return [(name, precision or "float32") for name, _, precision in (engine.partition(":") for engine in engines)]


def _row(result: Benchmark, timing: Timing) -> dict[str, Any]:
    """The figures of one engine and precision, under the names of the JSON output."""
    low, high = timing.spread
    share = result.share_of_peak(timing)
    return {
        "engine": timing.engine,
        "precision": timing.precision,
        "milliseconds": round(1000 * timing.median, 2),
        "low": round(1000 * low, 2),
        "high": round(1000 * high, 2),
        "images_per_second": round(result.images_per_second(timing), 2),
        "multiply_adds_per_second": round(result.multiply_adds / timing.median),
        "share_of_peak": None if share is None else round(share, 3),
        "peak_memory": timing.peak_memory,
        "difference": timing.difference,
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from atrous.analysis.counts import format_count

    headers = (
        "engine",
        "precision",
        "ms",
        "10-90 %",
        "images/s",
        "multiply-\nadds/s",
        "share of\npeak",
        "memory",
        "difference",
    )
    table = Table(*headers, box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        share, memory, difference = row["share_of_peak"], row["peak_memory"], row["difference"]
        table.add_row(
            row["engine"],
            row["precision"],
            f"{row['milliseconds']:.1f}",
            f"{row['low']:.1f}-{row['high']:.1f}",
            f"{row['images_per_second']:.1f}",
            format_count(row["multiply_adds_per_second"]),
            "" if share is None else f"{share:.0%}",
            "" if memory is None else f"{memory / 2**20:.0f} MB",
            "" if difference is None else f"{difference:.0e}",
        )
    make_console(width=120).print(table)
