"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from atrous.data import SegmentationDataset
    from atrous.inference import Segmenter

Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps; auto is the fastest one available.")]
OutputStride = Annotated[
    int | None,
    typer.Option(help="Run the network at this output stride instead of its own: 8 is denser and slower than 16."),
]
TTA_PRESETS = (
    "none", "flip", "v2", "v3", "v3_plus", "cityscapes", "refinenet", "pspnet", "pspnet_single", "pspnet_cityscapes",
    "pspnet_cityscapes_multi",
)  # fmt: skip
"""The names of `atrous.inference.tta.PRESETS`, repeated here so that `atrous --help` does not load torch."""

Engine = Annotated[
    str,
    typer.Option(
        help="The runtime of the network: torch, compile, onnxruntime or openvino; auto is torch on a GPU, onnxruntime "
        "on the CPU."
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        help="The data type of convolutions: float32, bfloat16, or int8 of a quantized network; auto is float32, or "
        "int8 of a quantized network."
    ),
]
TTA = Annotated[str, typer.Option(help=f"Test-time augmentation of a paper: {', '.join(TTA_PRESETS)}.")]
Tile = Annotated[
    int | None,
    typer.Option(help="Segment in overlapping windows of this side in pixels, at the image's own scale."),
]

AllowOverlap = Annotated[
    bool, typer.Option("--allow-overlap", help="Evaluate on images that the network was trained on, too.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace existing files, too, that this command did not write itself.")
]


def _raise_max_pixels(count: int | None) -> int | None:
    if count is not None:
        from atrous.imaging.pixel_limit import set_max_pixels

        set_max_pixels(count)
    return count


MaxPixels = Annotated[
    int | None,
    typer.Option(
        min=1,
        callback=_raise_max_pixels,
        help="Read images of up to this many pixels, instead of 179 million, above which a small file may unpack to "
        "more than the memory.",
    ),
]


def check_outside(out: Path, datasets: Iterable[SegmentationDataset]) -> None:
    """Raise `AtrousError` for an output in a folder of images or masks, whose files would become part of the data."""
    from atrous.errors import AtrousError

    files = {file for dataset in datasets for item in dataset.items for file in (item.image, item.mask)}
    for folder in {file.parent.resolve() for file in files if file is not None}:
        if out.resolve().is_relative_to(folder):
            raise AtrousError(
                f"{out} is in a folder of the data set, {folder}, where pictures count as images: choose "
                "another folder with -o."
            )


def load_segmenter(
    weights: str | Path,
    *,
    device: str,
    tta: str,
    tile: int | None,
    output_stride: int | None,
    engine: str = "auto",
    precision: str = "auto",
    throughput: bool = False,
) -> Segmenter:
    """Load the segmenter that the options of a command describe, for many images (`throughput`) or a single one.

    Raises: `AtrousError` for unknown weights, or options that the network does not support.
    """
    from atrous.inference import Segmenter

    return Segmenter.load(
        weights,
        engine=engine,
        precision=precision,
        output_stride=output_stride,
        device=device,
        tta=tta,
        tile=tile,
        throughput=throughput and tile is None,  # the windows of an image follow one another
        defer_conversion=not throughput and tile is None,
    )


def parse_size(text: str) -> tuple[int, int]:
    """Parse height and width, such as `1025x2049`, or the side of a square, such as `513`.

    Raises: `AtrousError` for anything else.
    """
    from atrous.errors import AtrousError

    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() and int(side) > 0 for side in sides):
        raise AtrousError(f"--size {text}: expected height and width, such as 1025x2049, or one side, such as 513.")
    return int(sides[0]), int(sides[-1])
