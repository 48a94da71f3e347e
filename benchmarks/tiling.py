"""A large image in bounded memory, and how near windows come to the whole.

    python benchmarks/tiling.py PHOTOGRAPHS -w WEIGHTS [--size 12000 9000] [--tile 1025] [--image IMAGE]

A mosaic of the JPEGs in the folder is written to a temporary file. A fresh process then reads and segments it in
windows; its peak memory above what it had after importing is printed, the image itself included. The mosaic of a size
that fits is segmented whole and in windows: how many labels agree, and, with the image-level feature held fixed (for it
sees all of its input, a window or the whole), how far the logits are apart away from seams. A mosaic of unrelated
photographs is the worst case for image-level features; `--image` names a picture to compare on instead.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from atrous import Segmenter
from atrous.card import Preprocessing
from atrous.imaging.io import Pixels, read_image

FITS = (2049, 1537)
FAR = 400
"""Pixels from a seam beyond which the backbone of MobileNetV2 does not see it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("-w", "--weights", required=True)
    parser.add_argument("--size", type=int, nargs=2, default=(12000, 9000), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--tile", type=int, default=1025)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments)
        return
    compare(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mosaic.jpg"
        Image.fromarray(mosaic(arguments.photographs, *arguments.size)).save(path, quality=90)
        options = ["-w", arguments.weights, "--tile", str(arguments.tile), "--overlap", str(arguments.overlap)]
        subprocess.run([sys.executable, __file__, str(path), *options, "--measure"], check=True)


def measure(arguments: argparse.Namespace) -> None:
    """In a process of its own: read, segment, tell."""
    before = resident()
    start = time.perf_counter()
    segmenter = Segmenter.load(arguments.weights, device="cpu", tile=arguments.tile, overlap=arguments.overlap)
    found = segmenter(arguments.photographs)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    height, width = found.labels.shape
    print(
        f"{width} x {height} in windows of {arguments.tile}: {seconds:.0f} s, of which the network "
        f"{segmenter.network_seconds:.0f} s; peak memory {(peak - before) / 2**30:.2f} GiB above start-up "
        f"({before / 2**30:.2f} GiB), the pixels being {found.image.nbytes / 2**30:.2f} GiB"
    )


@torch.inference_mode()
def compare(arguments: argparse.Namespace) -> None:
    pixels = mosaic(arguments.photographs, *FITS) if arguments.image is None else read_image(arguments.image)
    height, width = ((side - 1) // 32 * 32 + 1 for side in pixels.shape[:2])
    pixels = pixels[:height, :width]  # a size at which aligned corners fall on pixels, as in the windows
    whole = Segmenter.load(arguments.weights, device="cpu")
    how = whole.card.preprocessing.model_dump() | {"resize": "keep", "size": None}
    card = whole.card.model_copy(update={"preprocessing": Preprocessing(**how)})
    whole = Segmenter(whole.model, card, device="cpu")
    tiled = Segmenter(whole.model, card, device="cpu", tile=arguments.tile, overlap=arguments.overlap)
    size = f"{width} x {height}, windows of {arguments.tile}"
    agree = (whole(pixels).labels == tiled(pixels).labels).mean()
    print(f"{size}: labels agree on {agree:.2%} of the pixels")

    hold_image_level_feature(whole, pixels)
    difference = (whole.logits(pixels) - tiled.logits(pixels)).abs().amax(0).numpy()
    prediction = tiled.predict_coarse(pixels)
    far = np.ones(difference.shape, bool)
    for axis, along in ((prediction.rows, 0), (prediction.columns, 1)):  # type: ignore[union-attr]
        borders = {0} if axis.padded_length > axis.length else {0, axis.length}  # where window and whole end alike
        for seam in {min(s, axis.length) for start in axis.starts for s in (start, start + axis.tile)} - borders:
            near = slice(max(0, seam - FAR), seam + FAR)
            far[(near, slice(None)) if along == 0 else (slice(None), near)] = False
    same = (whole.predict_coarse(pixels).labels() == prediction.labels()).mean()
    print(f"{size}, the image-level feature held fixed: labels agree on {same:.2%}")
    if far.any():
        print(f"  logits differ by at most {difference[far].max():.1e} at {FAR} pixels from seams ({far.mean():.0%})")
    print(f"  logits differ by less than 1e-4 at {(difference < 1e-4).mean():.0%} of all pixels")


class Held(nn.Module):
    """One feature vector, wherever it is asked for."""

    def __init__(self, feature: Tensor) -> None:
        super().__init__()
        self.feature = feature

    def forward(self, x: Tensor) -> Tensor:
        return self.feature.expand(len(x), -1, *x.shape[-2:])


def hold_image_level_feature(segmenter: Segmenter, pixels: Pixels) -> None:
    aspp = segmenter.model.aspp
    seen: list[Tensor] = []
    hook = aspp.pooling.register_forward_hook(lambda *call: seen.append(call[-1].mean((2, 3), keepdim=True)))
    segmenter(pixels)
    hook.remove()
    aspp.pooling = Held(seen[0])


def mosaic(folder: Path, width: int, height: int) -> Pixels:
    """Photographs at their own scale, row by row."""
    picture = np.zeros((height, width, 3), np.uint8)
    names = sorted(folder.glob("*.jpg"))
    x = y = tallest = number = 0
    while y < height:
        part = read_image(names[number % len(names)])[: height - y, : width - x]
        picture[y : y + part.shape[0], x : x + part.shape[1]] = part
        tallest, x, number = max(tallest, part.shape[0]), x + part.shape[1], number + 1
        if x >= width:
            x, y, tallest = 0, y + tallest, 0
    return picture


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
