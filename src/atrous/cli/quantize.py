"""`atrous quantize`: 8-bit networks after training."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from atrous.cli.options import AllowOverlap, MaxPixels, OutputStride, Overwrite, parse_size
from atrous.console import print_line


def quantize(
    weights: Annotated[str, typer.Option("--weights", "-w", help="An id (see `atrous weights`) or a file of weights.")],
    data: Annotated[
        str, typer.Option("--data", "-d", help="The data set whose training split calibrates, as for `atrous train`.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write: .xml (OpenVINO) or .onnx.")],
    validation: Annotated[
        str | None,
        typer.Option(help="The data set that measures the mIoU; by default the split 'val' of --data.", metavar="DATA"),
    ] = None,
    max_drop: Annotated[
        float, typer.Option(min=0, help="The largest drop of the mIoU, in points; layers stay in float to keep to it.")
    ] = 0.5,
    images: Annotated[int, typer.Option(min=1, help="The number of images that calibrate.")] = 64,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Fix the size of the input, such as 513x513; any size otherwise.")
    ] = None,
    output_stride: OutputStride = None,
    allow_overlap: AllowOverlap = False,
    max_pixels: MaxPixels = None,
    overwrite: Overwrite = False,
) -> None:
    """Quantize a network to 8 bits after training: smaller and faster on the CPU, at a small cost in mIoU.

    NNCF calibrates the network on images of the training split. mIoU, size and speed before and after are printed and
    written into the card of the file, which `atrous predict` and `atrous evaluate` take as weights.

    Examples:

      atrous quantize -w deeplab_v3.mobilenet_v2.voc --data voc2012:/data/voc2012 -o voc.xml

      atrous quantize -w runs/best.safetensors --data folder:/data/mine -o mine.onnx --max-drop 1 --images 128
    """
    from atrous.data.catalog import open_dataset
    from atrous.export import quantize_model
    from atrous.files import check_writable
    from atrous.marks import check_replaceable
    from atrous.weights import load

    fixed = parse_size(size) if size is not None else None
    check_writable(out.parent)
    check_replaceable([out, out.with_suffix(".bin")] if out.suffix == ".xml" else [out], None, overwrite=overwrite)
    calibration = open_dataset(data)
    measured = open_dataset(validation) if validation is not None else open_dataset(data, split="val")
    model = load(weights)
    if output_stride is not None:
        model.set_output_stride(output_stride)
    report = quantize_model(
        model,
        out,
        calibration,
        measured,
        max_drop=max_drop,
        images=images,
        size=fixed,
        data=validation or f"{data}, split val",
        command=shlex.join(["atrous", *sys.argv[1:]]),
        allow_overlap=allow_overlap,
    )
    typer.echo(report.table())
    print_line("-> {}", report.path)
