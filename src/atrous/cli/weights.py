"""`atrous weights`: the weights there are."""

from __future__ import annotations

from typing import Annotated

import typer


def weights(
    pattern: Annotated[str, typer.Argument(help="A wildcard such as '*voc', or a part of an id.")] = "*",
) -> None:
    """List the weights that can be given by id, and where they lie.

    Looked for in the folders of ATROUS_WEIGHTS, the user's cache and the package; what is in none is downloaded when it
    is first used.

    Example:

      atrous weights voc
    """
    from rich.console import Console
    from rich.table import Table

    from atrous.errors import AtrousError
    from atrous.weights import list_weights
    from atrous.weights.store import describe

    names = list_weights(pattern)
    if not names:
        raise AtrousError(f"No weights match '{pattern}'; `atrous weights` lists all {len(list_weights())}.")
    table = Table("id", "what", "where")
    table.columns[0].no_wrap = True
    for listed in map(describe, names):
        table.add_row(listed.name, listed.about, str(listed.path or f"to download, {listed.megabytes:.0f} MB"))
    Console().print(table)
