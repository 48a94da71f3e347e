"""`atrous inspect`: the content of a data set, and its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atrous.cli.options import MaxPixels, Overwrite, check_outside
from atrous.console import make_console, print_line, printable
from atrous.progress import progress_bar

if TYPE_CHECKING:
    from atrous.data.inspect import Inspection

MAX_SHOWN = 20
"""The number of errors and of warnings that are printed; the report and --json list all."""


def inspect(
    data: Annotated[str, typer.Argument(help="A data set such as voc2012:/path?split=val, or a folder of your own.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write a contact sheet and an HTML report to this folder.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 1 for warnings too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    max_pixels: MaxPixels = None,
    overwrite: Overwrite = False,
) -> None:
    """Check every image and mask of a data set: sizes, values, class frequencies and weights, errors and warnings.

    Without a split in DATA, all splits are read and compared, to find images that are in two of them. The exit code is
    0 if there are no errors, 1 if there are, 2 if the data set was not opened.

    Examples:

      atrous inspect camvid:CamVid?split=train

      atrous inspect my-data -o report
    """
    from atrous.data.inspect import inspect_splits, open_splits
    from atrous.data.report import MARK
    from atrous.files import check_writable
    from atrous.marks import check_replaceable

    if out is not None:
        check_writable(out)
        check_replaceable([out / "samples.png", out / "report.html"], MARK, overwrite=overwrite)
    datasets = open_splits(data)
    if out is not None:
        check_outside(out, datasets)
    with progress_bar("reading") as on_progress:
        inspection = inspect_splits(datasets, on_progress=on_progress)
    written = _write(inspection, out) if out is not None else []
    if as_json:
        typer.echo(json.dumps(inspection.to_json(), indent=2))
    else:
        print_inspection(inspection)
        for path in written:
            print_line("[dim]->[/] {}", path)
    if inspection.errors or (strict and inspection.warnings):
        raise typer.Exit(1)


def _write(inspection: Inspection, out: Path) -> list[Path]:
    from atrous.data.report import MARK, write_html
    from atrous.files import writing
    from atrous.imaging.draw import contact_sheet
    from atrous.imaging.io import save_image

    paths = []
    samples = inspection.example_samples()
    sheet = contact_sheet(samples, inspection.classes, inspection.datasets[0].colors) if samples else None
    if sheet is not None:
        paths.append(out / "samples.png")
        save_image(sheet, paths[-1], MARK)
    paths.append(out / "report.html")
    with writing(paths[-1]) as temporary:
        temporary.write_text(write_html(inspection, sheet), "utf-8")
    return paths


def print_inspection(inspection: Inspection) -> None:
    """Print an inspection as tables."""
    from rich.table import Table

    content = inspection.to_json()
    splits = ", ".join(f"{name} {count:,}" for name, count in content["splits"].items())
    sizes = [f"{size['width']} x {size['height']} ({size['images']:,})" for size in content["sizes"]]
    masks = ", ".join(f"{kind} ({count:,})" for kind, count in content["masks"].items())
    print_line("[bold]{}[/]: {}", content["dataset"], splits)
    print_line("sizes: {}{}", ", ".join(sizes[:5]), f" and {len(sizes) - 5} more" if len(sizes) > 5 else "")
    print_line("masks: {}; {:,} pixels ignored", masks or "not readable", content["ignored_pixels"])
    table = Table("label", "class", "pixels", "share", "images", f"frequency ({content['weights_split']})", "weight")
    for column in (0, 2, 3, 4, 5, 6):
        table.columns[column].justify = "right"
    labeled = max(1, sum(entry["pixels"] for entry in content["classes"]))
    for entry in content["classes"]:
        known = entry["median_frequency_weight"] is not None
        table.add_row(
            str(entry["label"]),
            printable(entry["name"]),
            f"{entry['pixels']:,}",
            f"{entry['pixels'] / labeled:.2%}",
            f"{entry['images']:,}",
            f"{entry['frequency']:.4f}" if known else "",
            f"{entry['median_frequency_weight']:.4f}" if known else "",
        )
    make_console().print(table)
    for title, style, problems in (("error", "red", inspection.errors), ("warning", "yellow", inspection.warnings)):
        if problems:
            print_line(f"[bold {style}]{{}} {{}}:[/]", len(problems), title + "s" * (len(problems) > 1))
        for problem in problems[:MAX_SHOWN]:
            print_line("  {}", problem.message)
        if len(problems) > MAX_SHOWN:
            print_line("  and {} more: -o writes a report with all, --json prints them", len(problems) - MAX_SHOWN)
    if not inspection.errors:
        print_line("[green]no errors[/]")
