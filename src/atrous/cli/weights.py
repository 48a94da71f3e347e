"""`atrous weights`: list the known weights, and download them ahead of their use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from atrous.console import make_console

if TYPE_CHECKING:
    from atrous.weights.find import WeightsInfo


def weights(
    pattern: Annotated[
        str, typer.Argument(help="A wildcard such as '*voc', or a part of an id; with --download a whole id.")
    ] = "*",
    hub: Annotated[
        str | None,
        typer.Option(metavar="USER", help="List the repositories of a user or an organization on the hub instead."),
    ] = None,
    download: Annotated[
        bool,
        typer.Option(
            "--download", help="Download the weights of this id unless they are on this machine, and print their file."
        ),
    ] = False,
) -> None:
    """List the weights that can be used by id, and their files, or download them ahead of their use.

    Files are searched for in the folders of ATROUS_WEIGHTS, in the user's cache and in the package; all others are
    downloaded when they are first used. "published" are figures of the publisher; `atrous info ID` tells on which data.
    With --hub, the repositories on the Hugging Face hub are listed that `atrous push` made.

    Examples:

      atrous weights voc

      atrous weights --hub USER

      atrous weights deeplab_v3.mobilenet_v2.voc --download
    """
    from rich.table import Table

    if download:
        _download(pattern, hub)
        return
    table = Table("id", "weights", show_lines=True)
    table.columns[0].no_wrap = True
    for row in _known_rows(pattern) if hub is None else _hub_rows(hub, pattern):
        table.add_row(*row)
    make_console().print(table)


def _download(name: str, hub: str | None) -> None:
    """Download the weights of an id, and print their file."""
    from atrous.errors import AtrousError
    from atrous.weights import find_weights

    if hub is not None:
        raise AtrousError("--hub lists repositories; to download one: atrous weights hf://USER/NAME --download.")
    if name == "*":
        raise AtrousError("Name the weights: atrous weights ID --download; `atrous weights` lists the ids.")
    typer.echo(find_weights(name))


def _known_rows(pattern: str) -> list[tuple[str, str]]:
    """List ids and descriptions of the weights that are known by id."""
    from atrous.errors import AtrousError
    from atrous.weights import list_weights
    from atrous.weights.find import describe_weights

    names = list_weights(pattern)
    if not names:
        raise AtrousError(f"No weights match '{pattern}'; `atrous weights` lists all {len(list_weights())}.")
    return [(info.name, "\n".join(_details(info))) for info in map(describe_weights, names)]


def _details(info: WeightsInfo) -> tuple[str, ...]:
    """Describe weights: publisher and data, published figures and license, place."""
    release = info.release
    if release is None:
        return (str(info.path),)
    figures = ", ".join(f"{figure.name} {figure.value:g}" for figure in release.figures)
    terms = f"published: {figures}; {release.license}" if figures else release.license
    return release.description, terms, str(info.path or f"to download, {release.megabytes:.0f} MB")


def _hub_rows(user: str, pattern: str) -> list[tuple[str, str]]:
    """List ids and descriptions of the repositories of a user on the hub."""
    from atrous.errors import AtrousError
    from atrous.registry import matching
    from atrous.weights.hub import TAG, endpoint, list_hub_weights

    entries = {entry.id: entry for entry in list_hub_weights(user)}
    names = matching(pattern, entries)
    if not names:
        rest = f"match '{pattern}'; it has {len(entries)} with other names" if entries else f"have the tag '{TAG}'"
        raise AtrousError(f"No repositories of {user} on {endpoint()} {rest}. Private ones are listed with HF_TOKEN.")
    chosen = (entries[name] for name in names)
    return [
        (each.id, f"license {each.license}, changed {each.updated}{', private' if each.private else ''}")
        for each in chosen
    ]
