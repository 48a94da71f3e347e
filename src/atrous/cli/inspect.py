"""`atrous inspect`: what is in a data set, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atrous.progress import progress_bar

if TYPE_CHECKING:
    from rich.console import Console

    from atrous.data.inspect import Inspection

SHOWN = 20
"""Findings of each sort that are printed; the report and --json have all."""


def inspect(
    data: Annotated[str, typer.Argument(help="A data set such as voc2012:/path?split=val, or a folder of your own.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write a contact sheet and an HTML report to this folder.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Take what should merely be known for wrong as well.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all as JSON instead of tables.")] = False,
) -> None:
    """Open every image and mask: sizes, values, class frequencies and weights, and all that is wrong.

    Without a split in DATA all splits are looked at, and searched for pictures that are in two of them. Exit code 0
    means nothing is wrong, 1 that something is and is listed, 2 that the data set could not be opened.

    Examples:

      atrous inspect camvid:CamVid?split=train

      atrous inspect my-data -o report
    """
    from rich.console import Console

    from atrous.data.inspect import inspect as inspect_data
    from atrous.data.inspect import open_splits
    from atrous.files import check_writable

    if out is not None:
        check_writable(out)
    datasets = open_splits(data)
    with progress_bar("opening") as on_progress:
        inspection = inspect_data(datasets, on_progress=on_progress)
    written = _write(inspection, out) if out is not None else []
    if as_json:
        typer.echo(json.dumps(inspection.to_json(), indent=2))
    else:
        report(Console(), inspection)
        for path in written:
            Console().print(f"[dim]->[/] {path}", soft_wrap=True)
    if inspection.serious or (strict and inspection.findings):
        raise typer.Exit(1)


def _write(inspection: Inspection, out: Path) -> list[Path]:
    from atrous.data.report import write_html
    from atrous.files import writing
    from atrous.imaging.draw import contact_sheet
    from atrous.imaging.io import save_image

    paths = []
    samples = inspection.examples()
    sheet = contact_sheet(samples, inspection.classes, inspection.datasets[0].colors) if samples else None
    if sheet is not None:
        paths.append(out / "samples.png")
        save_image(sheet, paths[-1])
    paths.append(out / "report.html")
    with writing(paths[-1]) as temporary:
        temporary.write_text(write_html(inspection, sheet), "utf-8")
    return paths


def report(console: Console, inspection: Inspection) -> None:
    """The inspection as tables for people."""
    from rich.markup import escape
    from rich.table import Table

    content = inspection.to_json()
    splits = ", ".join(f"{name} {count:,}" for name, count in content["splits"].items())
    sizes = [f"{size['width']} x {size['height']} ({size['images']:,})" for size in content["sizes"]]
    masks = ", ".join(f"{kind} ({count:,})" for kind, count in content["masks"].items())
    console.print(f"[bold]{escape(content['dataset'])}[/]: {splits}", highlight=False)
    console.print(f"sizes: {', '.join(sizes[:5])}{f' and {len(sizes) - 5} more' if len(sizes) > 5 else ''}")
    console.print(f"masks: {masks or 'none could be read'}; {content['ignored_pixels']:,} pixels ignored")
    table = Table("label", "class", "pixels", "share", "images", f"frequency ({content['weights_from']})", "weight")
    for column in (0, 2, 3, 4, 5, 6):
        table.columns[column].justify = "right"
    labeled = max(1, sum(entry["pixels"] for entry in content["classes"]))
    for entry in content["classes"]:
        known = entry["median_frequency_weight"] is not None
        table.add_row(
            str(entry["label"]),
            escape(entry["name"]),
            f"{entry['pixels']:,}",
            f"{entry['pixels'] / labeled:.2%}",
            f"{entry['images']:,}",
            f"{entry['frequency']:.4f}" if known else "",
            f"{entry['median_frequency_weight']:.4f}" if known else "",
        )
    console.print(table)
    for title, style, found in (
        ("wrong", "red", inspection.serious),
        ("to know", "yellow", [finding for finding in inspection.findings if not finding.serious]),
    ):
        if found:
            console.print(f"[bold {style}]{len(found)} {title}:[/]")
        for finding in found[:SHOWN]:
            console.print(f"  {escape(finding.message)}", soft_wrap=True, highlight=False)
        if len(found) > SHOWN:
            console.print(f"  and {len(found) - SHOWN} more: -o writes a report with all, --json prints them")
    if not inspection.serious:
        console.print("[green]nothing is wrong[/]")
