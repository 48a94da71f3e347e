"""`atrous weights`: list the known weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from atrous.weights.find import WeightsInfo


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
    table = Table("id", "weights", show_lines=True)
    table.columns[0].no_wrap = True
    for info in map(describe_weights, names):
        table.add_row(info.name, "\n".join(_details(info)))
    Console().print(table)


def _details(info: WeightsInfo) -> tuple[str, ...]:
    """Describe weights: publisher and data, published figures and license, place."""
    release = info.release
    if release is None:
        return (str(info.path),)
    figures = ", ".join(f"{figure.name} {figure.value:g}" for figure in release.figures)
    terms = f"published: {figures}; {release.license}" if figures else release.license
    return release.description, terms, str(info.path or f"to download, {release.megabytes:.0f} MB")
