"""`atrous explain`: a network, stage by stage."""

from __future__ import annotations

from typing import Annotated

import typer


def explain(
    model: Annotated[str, typer.Argument(help="The id of a network, see `atrous models`.")],
    size: Annotated[str, typer.Option(help="Height and width of the image.")] = "513x513",
    output_stride: Annotated[int | None, typer.Option(help="Run it at this stride, not at its own.")] = None,
    num_classes: Annotated[int, typer.Option(help="Number of classes.")] = 21,
    layers: Annotated[bool, typer.Option("--layers", help="Every single convolution and pooling.")] = False,
) -> None:
    """Show what each stage of a network puts out, how coarse and dilated it is, what it sees and what it costs.

    "sees" is the receptive field in pixels of the image, composed exactly along the network.

    Examples:

      atrous explain deeplab_v3_plus.xception65

      atrous explain deeplab_v3.resnet101 --output-stride 8 --size 1025x2049
    """
    from rich.console import Console
    from rich.table import Table

    from atrous.analysis.counts import count_text
    from atrous.analysis.explain import explain as explained

    options = {} if output_stride is None else {"output_stride": output_stride}
    told = explained(model, _size(size), num_classes=num_classes, **options)
    table = Table(*told.HEADER, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for column in table.columns:
        column.no_wrap = column.header != "dilation"
    for row in told.rows(layers=layers):
        table.add_row(*row)
    Console().print(table)
    typer.echo(f"{told.parameters:,} parameters, {count_text(told.multiply_adds)} multiply-adds")


def _size(text: str) -> tuple[int, int]:
    from atrous.errors import AtrousError

    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdigit() and int(side) > 0 for side in sides):
        raise AtrousError(f"--size {text}: height and width are expected, such as 513x513.")
    return int(sides[0]), int(sides[1])
