"""`atrous import-weights`: convert weights of other projects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from atrous.cli.options import Overwrite


def import_weights(
    file: Annotated[Path, typer.Argument(help="A file of another project, or a .safetensors file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file to write.")],
    half: Annotated[bool, typer.Option("--half", help="Store 16-bit floats: half the size.")] = False,
    argument: Annotated[
        list[str] | None,
        typer.Option(
            "--argument",
            "-a",
            help="KEY=VALUE, an argument of the network that the file does not tell, or that is to differ; repeatable.",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert weights of another project to a safetensors file with a card, or store weights in 16 bits.

    Examples:

      atrous import-weights deeplabv3_257_mv_gpu.tflite -o deeplab_v3.mobilenet_v2_x0.5.voc.safetensors

      atrous import-weights model.ckpt-30000 -o street.safetensors

      atrous import-weights smp.pth -a output_stride=16 -a backbone_options.whole_stage=false -o street.safetensors

      atrous import-weights runs/street/best.safetensors --half -o street.safetensors
    """
    from rich.console import Console

    from atrous.files import check_writable
    from atrous.marks import check_replaceable
    from atrous.weights import load, save

    check_writable(out.parent)
    check_replaceable([out], None, overwrite=overwrite, inputs=[file])
    model = load(file, arguments=_parse(argument or []))
    path = save(model, out, half=half)
    console = Console()
    console.print(f"{type(model).__name__}, {model.num_classes} classes -> {path}", soft_wrap=True)
    if model.card is not None and model.card.source:
        console.print(model.card.source, soft_wrap=True, style="dim", markup=False)


def _parse(texts: list[str]) -> dict[str, Any]:
    """Parse `key=value` and `key.key=value` to nested mappings."""
    from atrous.training.overrides import parse_override

    arguments: dict[str, Any] = {}
    for text in texts:
        (*parents, last), value = parse_override(text)
        inner = arguments
        for key in parents:
            inner = inner.setdefault(key, {})
        inner[last] = value
    return arguments
