"""`atrous push`: push weights to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atrous.cli.options import Overwrite
from atrous.console import print_line

if TYPE_CHECKING:
    from atrous.export import PushReport


def push(
    weights: Annotated[str, typer.Argument(help="An id (see `atrous weights`) or a file of weights.")],
    repo: Annotated[str, typer.Argument(metavar="USER/NAME", help="The repository; it is created if necessary.")],
    private: Annotated[
        bool, typer.Option("--private", help="Create a private repository; an existing public one is refused.")
    ] = False,
    image: Annotated[
        Path | None,
        typer.Option(help="The image of the example picture, which is pushed, too; by default a rendered street."),
    ] = None,
    no_image: Annotated[bool, typer.Option("--no-image", help="Push no example picture.")] = False,
    message: Annotated[str, typer.Option("--message", "-m", help="The message of the commit.")] = "",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the files to this folder, to look at; push nothing.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Push weights with their card to a repository of the Hugging Face hub, with a README made from the card.

    The README tells network, classes, figures with their commands, input, license and how to use the weights. One that
    was written by hand is kept. The token is read from the environment variable HF_TOKEN only. Afterwards, everything
    that takes weights takes hf://USER/NAME.

    Examples:

      atrous push runs/street/best.safetensors USER/NAME --out street

      atrous push runs/street/best.safetensors USER/NAME --private
    """
    from atrous.errors import AtrousError
    from atrous.export.push import prepare_push, push_to_hub
    from atrous.files import check_writable
    from atrous.marks import check_replaceable

    if image is not None and no_image:
        raise AtrousError("--image and --no-image exclude each other: remove one.")
    picture = None if no_image else image or "street"
    if out is None:
        _print_report(push_to_hub(weights, repo, private=private, image=picture, message=message))
        return
    check_writable(out)
    names = ("model.safetensors", "README.md", "example.jpg")
    check_replaceable([out / name for name in names], None, overwrite=overwrite, inputs=[Path(weights)])
    for path in prepare_push(weights, repo, out, image=picture).values():
        print_line("-> {}", path)


def _print_report(report: PushReport) -> None:
    if report.kept_readme:
        print_line("[yellow]note[/]: the README of the repository was written by hand, and is kept")
    if report.license == "unknown":
        print_line("[yellow]note[/]: the card names no license, so nobody knows whether they may use the weights")
    kind = "private" if report.private else "public"
    print_line("-> {} ({}), this version: {}", report.url, kind, report.id)
