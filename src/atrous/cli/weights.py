"""`atrous weights`: list the known weights."""

from __future__ import annotations

from typing import Annotated

import typer


def weights(
    pattern: Annotated[str, typer.Argument(help="A wildcard such as '*voc', or a part of an id.")] = "*",
) -> None:
    """List the weights that can be used by id, and their files.

    Files are searched for in the folders of ATROUS_WEIGHTS, in the user's cache and in the package; all others are
    downloaded when they are first used. "published" are figures of the publisher; `atrous info ID` tells on which data.

    Example:

      atrous weights voc
    """
    from rich.console import Console
    from rich.table import Table

    from atrous.errors import AtrousError
    from atrous.weights import list_weights
    from atrous.weights.find import describe_weights

    names = list_weights(pattern)
    if not names:
        raise AtrousError(f"No weights match '{pattern}'; `atrous weights` lists all {len(list_weights())}.")
    table = Table("id", "description", "published", "license", "file")
    table.columns[0].no_wrap = True
    for info in map(describe_weights, names):
        release = info.release
        figures = [f"{figure.name} {figure.value:g}" for figure in release.figures] if release else []
        place = str(info.path) if info.path or release is None else f"to download, {release.megabytes:.0f} MB"
        described = (release.description, ", ".join(figures), release.license) if release else ("", "", "")
        table.add_row(info.name, *described, place)
    Console().print(table)
