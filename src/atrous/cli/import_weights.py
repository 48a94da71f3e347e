"""`atrous import-weights`: convert weights of other projects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from atrous.cli.options import Overwrite
from atrous.console import print_line


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

    The format is recognized by the content of the file, the network by the names and shapes of its tensors.

    Examples:

      atrous import-weights deeplabv3_257_mv_gpu.tflite -o deeplab_v3.mobilenet_v2_x0.5.voc.safetensors

      atrous import-weights model.ckpt-30000 -o street.safetensors

      atrous import-weights smp.pth -a output_stride=16 -a backbone_options.whole_stage=false -o street.safetensors

      atrous import-weights runs/street/best.safetensors --half -o street.safetensors
    """
    from atrous.files import check_writable
    from atrous.marks import check_replaceable
    from atrous.weights import find_weights, load, save
    from atrous.weights.importers.formats import find_format

    check_writable(out.parent)
    check_replaceable([out], None, overwrite=overwrite, inputs=[file])
    source = find_weights(file)
    model = load(source, arguments=_parse(argument or []))
    card = model.card
    assert card is not None
    path = save(model, out, half=half)
    arguments = ", ".join(f"{key}={value}" for key, value in card.arguments.items())
    for line in (
        f"{find_format(source).name}: {type(model).__name__}, {model.num_classes} classes -> {path}",
        f"network: {card.model}({arguments})",
        f"source: {card.source or 'unknown'}",
        f"license: {card.license}",
    ):
        print_line("{}", line)


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
