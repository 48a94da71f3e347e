"""`atrous explain`: summarize a network stage by stage, or count the valid weights of its atrous convolutions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atrous.cli.options import Overwrite, parse_size
from atrous.console import make_console

if TYPE_CHECKING:
    from atrous.analysis.valid_weights import ValidWeightCurve

BARS = {9: "█", 4: "▓", 1: "░"}
"""Characters of the bars by the number of valid weights; other numbers are blank."""
BAR_WIDTH = 40


def explain(
    model: Annotated[str, typer.Argument(help="Id of a network; `atrous models` lists them.")],
    size: Annotated[str, typer.Option(help="Height and width of the image, or the side of a square.")] = "513x513",
    output_stride: Annotated[int | None, typer.Option(help="Output stride, if not the network's default.")] = None,
    num_classes: Annotated[int, typer.Option(help="Number of classes.")] = 21,
    layers: Annotated[
        bool, typer.Option("--layers", help="One row per convolution, pooling and other layer instead of per stage.")
    ] = False,
    valid_weights: Annotated[
        bool,
        typer.Option(
            "--valid-weights",
            help="Instead of the stages, show by atrous rate at how many positions of the last feature map 9, 4 or 1 "
            "weights of a 3x3 kernel are inside the map.",
        ),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Draw the valid weights to an SVG or PNG file as well.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Show output size, stride, dilation, receptive field, parameters and multiply-adds of each stage of a network.

    Receptive fields are exact and in pixels of the image; "image" is the whole image. The field of view, of DeepLab v1
    and v2 only, is that of the dilated kernel of the classifier, as their papers count it.

    Examples:

      atrous explain deeplab_v3_plus.xception65

      atrous explain deeplab_v3.resnet101 --output-stride 8 --size 1025x2049

      atrous explain deeplab_v3.resnet101 --output-stride 8 --size 513 --valid-weights -o valid_weights.svg
    """
    from atrous.errors import AtrousError
    from atrous.marks import check_replaceable

    check_replaceable([] if output is None else [output], None, overwrite=overwrite)
    arguments = {"num_classes": num_classes, **({} if output_stride is None else {"output_stride": output_stride})}
    if valid_weights:
        _explain_valid_weights(model, parse_size(size), arguments, output)
    elif output is not None:
        raise AtrousError("--output draws the valid weights: add --valid-weights.")
    else:
        _explain_stages(model, parse_size(size), arguments, layers)


def _explain_stages(model: str, size: tuple[int, int], arguments: dict[str, Any], layers: bool) -> None:
    from rich.table import Table

    from atrous.analysis.counts import format_count
    from atrous.analysis.explain import explain as summarize

    summary = summarize(model, size, **arguments)
    headers = (name.replace(" ", "\n").replace("-", "-\n") for name in summary.columns)
    table = Table(*headers, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in summary.rows(layers=layers):
        table.add_row(*row)
    make_console(width=200).print(table)  # lines wrap in a narrow terminal, but no column is cut
    typer.echo(f"{summary.parameters:,} parameters, {format_count(summary.multiply_adds)} multiply-adds")


def _explain_valid_weights(model: str, size: tuple[int, int], arguments: dict[str, Any], output: Path | None) -> None:
    from atrous.analysis.valid_weights import plot_valid_weights, valid_weight_curve

    curve = valid_weight_curve(model, size, **arguments)
    _print_curve(curve)
    if output is not None:
        plot_valid_weights(curve, output)
        typer.echo(f"Written: {output}")


def _print_curve(curve: ValidWeightCurve) -> None:
    """Print a row per rate: the share of positions with 9, 4 and 1 valid weights, in numbers and as a bar."""
    height, width = curve.map_size
    typer.echo(f"3x3 kernels on the last feature map, {height} x {width} at output stride {curve.output_stride}:")
    typer.echo("share of positions at which 9, 4 or 1 of the weights are inside the map, by atrous rate")
    if curve.rates_used:
        typer.echo("* a rate of this network")
    typer.echo(f"\n rate       9       4       1   {', '.join(f'{bar} {number}' for number, bar in BARS.items())}")
    for point in curve.points:
        shares = [point.shares.get(number, 0.0) for number in BARS]
        bar = "".join(sign * round(BAR_WIDTH * share) for sign, share in zip(BARS.values(), shares, strict=True))
        mark = "*" if point.rate in curve.rates_used else " "
        typer.echo(f"{mark}{point.rate:4}{''.join(f'{share:8.1%}' for share in shares)}   {bar}".rstrip())
