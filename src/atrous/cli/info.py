"""`atrous info`: show the card of weights."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from atrous.console import make_console

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from atrous.card import Card, Measurement
    from atrous.weights.catalog import Release


def info(
    weights: Annotated[str, typer.Argument(help="An id, a file of weights, or an exported file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Show the card of weights: network, classes, preprocessing, source, license, measured figures.

    Of weights that are not on this machine it shows the entry of the catalog, and downloads nothing. Those of the hub
    are downloaded.

    Examples:

      atrous info deeplab_v3.mobilenet_v2_x0.5.voc

      atrous info model.safetensors --json

      atrous info model.onnx
    """
    from atrous.weights import find_weights
    from atrous.weights.find import DownloadNeededError, describe_weights, downloads_disabled
    from atrous.weights.hub import is_hub_id

    try:
        with nullcontext() if is_hub_id(weights) else downloads_disabled():
            path = find_weights(weights)
    except DownloadNeededError:
        if as_json:
            raise
        release = describe_weights(weights).release
        assert release is not None
        _print_release(release)
        return
    card = _read_card(path)
    if as_json:
        typer.echo(card.model_dump_json(indent=2))
        return
    arguments = ", ".join(f"{key}={value}" for key, value in card.arguments.items())
    preprocessing = card.preprocessing
    size = f" to {preprocessing.size[1]} x {preprocessing.size[0]}" if preprocessing.size else ""
    grid = f", sides {preprocessing.grid} k + 1" if preprocessing.grid else ""
    normalization = f"(pixel - {preprocessing.mean}) / {preprocessing.std}"
    rows = {
        "file": str(path),
        "network": card.model,
        "arguments": arguments,
        "classes": f"{len(card.classes)}: {', '.join(card.classes)}",
        "input": f"{preprocessing.channel_order}, {preprocessing.resize}{size}{grid}, {normalization}",
        "align_corners": str(card.align_corners),
        "ignore index": str(card.ignore_index),
        "trained on": card.trained_on,
        "source": card.source,
        "license": card.license,
    }
    _print_rows(rows, card.measured)


def _print_release(release: Release) -> None:
    """Show the entry of the catalog for weights that are not on this machine, without downloading them."""
    rows = {
        "weights": release.name,
        "file": f"not on this machine: the first use downloads {release.megabytes:.0f} MB from {release.url}",
        "SHA-256": f"{release.sha256}{'...' if len(release.sha256) < 64 else ''}"
        if release.sha256
        else "not published: that of the first download is remembered, and checked from then on",
        "trained on": release.trained_on,
        "source": release.description,
        "license": release.license,
    }
    _print_rows(rows, release.figures)


def _print_rows(rows: Mapping[str, str], figures: Sequence[Measurement]) -> None:
    from rich.table import Table

    table = Table(show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in rows.items():
        if value:
            table.add_row(key, value)
    for figure in figures:
        note = "published" if figure.published else figure.command
        table.add_row(figure.name, f"{figure.value:g} on {figure.data} ({note})")
    make_console().print(table)


def _read_card(path: Path) -> Card:
    """Read the card of weights, or of an exported file, whose suffix says so."""
    if path.suffix in (".onnx", ".xml", ".pt2", ".pte"):
        from atrous.export.exporter import read_metadata

        return read_metadata(path).card
    from atrous.weights import read_card

    return read_card(path)
