"""`atrous explain`: summarize a network stage by stage."""

from __future__ import annotations

from typing import Annotated

import typer

from atrous.cli.options import parse_size


def explain(
    model: Annotated[str, typer.Argument(help="Id of a network; `atrous models` lists them.")],
    size: Annotated[str, typer.Option(help="Height and width of the image.")] = "513x513",
    output_stride: Annotated[int | None, typer.Option(help="Output stride, if not the network's default.")] = None,
    num_classes: Annotated[int, typer.Option(help="Number of classes.")] = 21,
    layers: Annotated[
        bool, typer.Option("--layers", help="One row per convolution, pooling and other layer instead of per stage.")
    ] = False,
) -> None:
    """Show output size, stride, dilation, receptive field, parameters and multiply-adds of each stage of a network.

    Receptive fields are exact and in pixels of the image; "image" is the whole image.

    Examples:

      atrous explain deeplab_v3_plus.xception65

      atrous explain deeplab_v3.resnet101 --output-stride 8 --size 1025x2049
    """
    from rich.console import Console
    from rich.table import Table

    from atrous.analysis.counts import format_count
    from atrous.analysis.explain import explain as summarize

    arguments = {} if output_stride is None else {"output_stride": output_stride}
    summary = summarize(model, parse_size(size), num_classes=num_classes, **arguments)
    headers = (name.replace(" ", "\n").replace("-", "-\n") for name in summary.COLUMNS)
    table = Table(*headers, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in summary.rows(layers=layers):
        table.add_row(*row)
    Console(width=200).print(table)  # lines wrap in a narrow terminal, but no column is cut
    typer.echo(f"{summary.parameters:,} parameters, {format_count(summary.multiply_adds)} multiply-adds")
