"""`atrous models`: the networks there are."""

from __future__ import annotations

from typing import Annotated

import typer

STRIDES = (8, 16, 32)
"""The output strides worth telling; most networks run at finer and some at coarser ones."""


def models(
    pattern: Annotated[str, typer.Argument(help="A wildcard such as 'deeplab*resnet*', or a part of an id.")] = "*",
) -> None:
    """List the networks: id, paper, year, parameters, multiply-adds for an image of 513 x 513, possible strides.

    Parameters and multiply-adds are those at 21 classes, in the way the network is run unless told otherwise; that is
    at the first of the output strides.

    Examples:

      atrous models

      atrous models 'deeplab_v3*.mobilenet*'
    """
    import torch
    from rich.console import Console
    from rich.table import Table

    from atrous.errors import AtrousError
    from atrous.models import MODELS, list_models
    from atrous.models.summary import count_parameters, count_text, multiply_adds

    names = list_models(pattern)
    if not names:
        raise AtrousError(f"No network matches '{pattern}'; `atrous models` lists all {len(list_models())}.")
    table = Table("id", "paper", "year", "parameters", "multiply-adds", "output strides")
    table.columns[0].no_wrap = True
    for column in table.columns[3:5]:
        column.justify = "right"
        column.no_wrap = True
    for name in names:
        entry = MODELS.entry(name)
        with torch.device("meta"):
            model = entry.build()
        first = model.output_stride
        others = [stride for stride in STRIDES if stride != first and stride in model.possible_output_strides()]
        table.add_row(
            name,
            entry.paper.short,
            str(entry.paper.year),
            f"{count_parameters(model):,}",
            count_text(multiply_adds(model)),
            ", ".join(map(str, [first, *others])),
        )
    Console().print(table)
