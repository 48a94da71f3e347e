"""`atrous models`: the networks there are."""

from __future__ import annotations

from typing import Annotated

import typer


def models(
    pattern: Annotated[str, typer.Argument(help="A wildcard such as 'deeplab*resnet*', or a part of an id.")] = "*",
) -> None:
    """List the networks: id, paper, year, parameters (at 21 classes).

    Examples:

      atrous models

      atrous models 'deeplab_v3*.mobilenet*'
    """
    import torch
    from rich.console import Console
    from rich.table import Table

    from atrous.errors import AtrousError
    from atrous.models import MODELS, list_models
    from atrous.models.summary import count_parameters

    names = list_models(pattern)
    if not names:
        raise AtrousError(f"No network matches '{pattern}'; `atrous models` lists all {len(list_models())}.")
    table = Table("id", "paper", "year", "parameters")
    table.columns[0].no_wrap = True
    table.columns[-1].justify = "right"
    for name in names:
        entry = MODELS.entry(name)
        with torch.device("meta"):
            parameters = count_parameters(entry.build())
        table.add_row(name, entry.paper.short, str(entry.paper.year), f"{parameters:,}")
    Console().print(table)
