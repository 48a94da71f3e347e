"""`atrous models`: list the networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from atrous.console import make_console, print_line

if TYPE_CHECKING:
    from atrous.registry import Paper

STRIDES = (8, 16, 32)
"""The output strides that are listed; most networks also run at finer strides, some at coarser ones."""


def models(
    pattern: Annotated[str, typer.Argument(help="A wildcard such as 'deeplab*resnet*', or a part of an id.")] = "*",
) -> None:
    """List the networks by paper and year: parameters, multiply-adds for an image of 513 x 513, output strides.

    Parameters and multiply-adds are those for 21 classes and default arguments, at the first output stride of the list.

    Examples:

      atrous models

      atrous models 'deeplab_v3*.mobilenet*'
    """
    from itertools import groupby

    from rich.table import Table

    from atrous.analysis.counts import count_parameters, format_count, multiply_adds
    from atrous.errors import AtrousError
    from atrous.layers.meta import meta_device
    from atrous.models import MODELS, list_models

    names = list_models(pattern)
    if not names:
        raise AtrousError(f"No network matches '{pattern}'; `atrous models` lists all {len(list_models())}.")
    width = max(map(len, names))
    entries = sorted(map(MODELS.entry, names), key=lambda entry: (_year_and_title(entry.paper), entry.name))
    for paper, group in groupby(entries, key=lambda entry: entry.paper):
        if paper is None:
            print_line("\n[bold]Without a paper[/]")
        else:
            print_line("\n[bold]{}[/] [dim]({}, {})[/]", paper.title, paper.short, paper.year)
        table = Table(
            "id", "parameters", "multiply-adds", "output strides", box=None, header_style="dim", pad_edge=False
        )
        for column, size, justify in zip(
            table.columns, (width, 11, 13, 14), ("left", "right", "right", "left"), strict=True
        ):
            column.min_width, column.justify, column.no_wrap = size, justify, True  # type: ignore[assignment]
        for entry in group:
            with meta_device():
                model = entry.build()
            first = model.output_stride
            others = [stride for stride in STRIDES if stride != first and stride in model.possible_output_strides()]
            row = (
                f"{count_parameters(model):,}",
                format_count(multiply_adds(model)),
                " ".join(map(str, [first, *others])),
            )
            table.add_row(entry.name, *row)
        make_console().print(table)


def _year_and_title(paper: Paper | None) -> tuple[int, str]:
    return (paper.year, paper.title) if paper else (9999, "")  # last
