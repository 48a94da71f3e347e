"""The command line `atrous`: its commands, and the exit codes of errors.

Neither this file nor those of the commands import torch or other heavy packages at the top, so that `atrous --help`
answers at once; each command imports what it needs when it runs.
"""

from __future__ import annotations

import io
import os
import re
import sys
import traceback
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from atrous import __version__
from atrous.cli.benchmark import benchmark
from atrous.cli.crf import PRESETS
from atrous.cli.crf import app as crf
from atrous.cli.data import app as data
from atrous.cli.evaluate import evaluate
from atrous.cli.explain import explain
from atrous.cli.export import export
from atrous.cli.import_weights import import_weights
from atrous.cli.info import info
from atrous.cli.inspect import inspect
from atrous.cli.models import models
from atrous.cli.predict import predict
from atrous.cli.push import push
from atrous.cli.quantize import quantize
from atrous.cli.serve import serve
from atrous.cli.train import train
from atrous.cli.weights import weights
from atrous.console import printable
from atrous.errors import AtrousError, describe_unexpected

EPILOG = """Examples:

  atrous predict street.jpg

  atrous predict cat.jpg -w deeplab_v3.mobilenet_v2.voc

  atrous predict photos/ -w model.safetensors -o segmented

  atrous train --model deeplab_v3_plus.mobilenet_v2 --data my-photographs

  atrous models deeplab_v3_plus

`atrous COMMAND --help` explains a command."""


class _Commands(TyperGroup):
    """The commands: Ctrl-C ends each with a word and code 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("stopped.", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    name="atrous",
    cls=_Commands,
    help="Semantic segmentation: DeepLab v1 to v3+, FCN, U-Net, PSPNet and others, and the fully connected CRF.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(predict)
app.command()(evaluate)
app.command()(train)
app.command()(serve)
app.command()(models)
app.command()(explain)
app.command()(weights)
app.command()(info)
app.command("import-weights")(import_weights)
app.command()(export)
app.command()(quantize)
app.command()(push)
app.command()(inspect)
app.command()(benchmark)
app.add_typer(data)
app.add_typer(crf)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"atrous {__version__}")
        raise typer.Exit


@app.callback()
def _atrous(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that stand before the command."""


def _add_default_preset(arguments: list[str]) -> list[str]:
    """Expand `--crf` without a preset to `--crf v2`, because typer has no options with an optional value.

    A word that is neither a preset nor an option nor a path is kept as a misspelled preset, for which the command
    suggests a name.
    """
    expanded = []
    for argument, following in pairwise([*arguments, ""]):
        expanded.append(argument)
        if argument == "--crf" and following not in PRESETS and not _is_misspelled(following):
            expanded.append("v2")
    return expanded


def _is_misspelled(word: str) -> bool:
    """Tell whether a word after `--crf` is neither an option nor a path, and so a preset that does not exist."""
    looks_like_path = any(sign in word for sign in "/\\*?[") or re.search(r"\.[A-Za-z]\w*$", word) is not None
    return bool(word) and not word.startswith("-") and not looks_like_path and not Path(word).exists()


def main() -> None:
    """Run the command line: errors print one line each, and Ctrl-C exits with code 130.

    The exit code is 2 for what a user can mend, and 1 for an exception that nobody expected. With `ATROUS_DEBUG=1` the
    traceback is printed, too.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    try:
        app(_add_default_preset(sys.argv[1:]))
    except Exception as error:
        if os.environ.get("ATROUS_DEBUG"):
            traceback.print_exc()
        message, code = _describe_error(error)
        typer.secho(f"error: {message}", err=True, fg="red")
        sys.exit(code)


def _describe_error(error: Exception) -> tuple[str, int]:
    """Describe what ended a command, and choose its exit code."""
    if isinstance(error, AtrousError):
        return str(error), 2
    if isinstance(error, OSError) and error.filename is not None:
        place = printable(os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename)
        message = f"{place}: {error.strerror or describe_unexpected(error)}. Check the path and its permissions."
        return str(AtrousError(message)), 2  # which shortens a very long path
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter is torch's
        return f"Memory ran out ({describe_unexpected(error)}): free memory, or choose smaller images or batches.", 2
    return (
        f"{describe_unexpected(error)}. This is an error of atrous: run the command again with ATROUS_DEBUG=1, which "
        "prints the traceback, and report it with that.",
        1,
    )


if __name__ == "__main__":
    main()
