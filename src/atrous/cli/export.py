"""`atrous export`: write networks to the files of other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atrous.cli.options import MaxPixels, OutputStride, Overwrite, parse_size
from atrous.console import print_line


def export(
    weights: Annotated[str, typer.Option("--weights", "-w", help="An id (see `atrous weights`) or a file of weights.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="The file to write: .onnx, .xml (OpenVINO), .pt2 (torch.export) or .pte (ExecuTorch)."
        ),
    ],
    labels: Annotated[
        bool, typer.Option("--labels", help="Include preprocessing, resizing and arg-max: 8-bit images in, labels out.")
    ] = False,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Fix the size of the input, such as 513x513; any size otherwise.")
    ] = None,
    output_stride: OutputStride = None,
    images: Annotated[
        Path | None,
        typer.Option(help="An image, or a folder of images, to compare file and network on; otherwise random ones."),
    ] = None,
    max_pixels: MaxPixels = None,
    overwrite: Overwrite = False,
) -> None:
    """Export a network with its card to ONNX, OpenVINO, torch.export or ExecuTorch.

    The file takes batches and images of any size: input `image`, normalized, output `scores`, low-resolution logits.
    With `--labels`, it takes 8-bit RGB images (N, H, W, 3) and gives labels (N, H, W). Before it gets its name, the
    file is run on images of three sizes; one that differs from the network is not kept.

    Examples:

      atrous export -w deeplab_v3_plus.efficientnet_lite0.camvid -o street.onnx

      atrous export -w runs/best.safetensors -o best.xml --output-stride 8 --images photos/

      atrous export -w deeplab_v3.mobilenet_v2.voc -o voc.onnx --labels --size 375x500

      atrous export -w deeplab_v3_plus.efficientnet_lite0.camvid -o street.pte --size 353x481
    """
    from atrous.export import export_model
    from atrous.files import check_writable
    from atrous.imaging.io import read_image
    from atrous.inference.sources import expand_source
    from atrous.marks import check_replaceable
    from atrous.weights import load

    fixed = parse_size(size) if size is not None else None
    check_writable(out.parent)
    check_replaceable([out, out.with_suffix(".bin")] if out.suffix == ".xml" else [out], None, overwrite=overwrite)
    sources = [] if images is None else [source for source, _ in expand_source(str(images))[:3]]
    opened = (source if isinstance(source, Path) else source.open() for source in sources)
    model = load(weights)
    if output_stride is not None:
        model.set_output_stride(output_stride)
    report = export_model(model, out, labels=labels, size=fixed, images=[read_image(each) for each in opened])
    sizes = ", ".join(f"{width} x {height}" for height, width in sorted({each.size for each in report.differences}))
    print_line(
        "-> {}, {:.1f} MB; differs from the network by at most {:.1g} of the largest score (at {} pixels)",
        *(report.path, report.num_bytes / 1e6, report.largest_difference, sizes),
    )
