"""Measure the memory of tiled segmentation, and the agreement of tiled and whole segmentation.

    python benchmarks/tiling.py PHOTOGRAPHS -w WEIGHTS [--size 12000 9000] [--tile 1025] [--image IMAGE]

A mosaic of the JPEGs in the folder is written to a temporary file. A fresh process reads and segments it in windows,
and prints its peak memory above that after importing, including the image. A smaller mosaic is segmented as a whole and
in windows, to print the fraction of labels that agree and, with the image-level feature held fixed (because it depends
on the whole input, a window or the image), the difference of the logits away from seams. A mosaic of unrelated
photographs is the worst case for image-level features; `--image` compares on an image instead.
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

SMALL_SIZE = (2049, 1537)
FAR = 400
"""Pixels from a seam beyond the receptive field of the backbone of MobileNetV2."""


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
    """Read and segment the mosaic in this process, and print time and memory."""
    before = resident()
    start = time.perf_counter()
    segmenter = Segmenter.load(arguments.weights, device="cpu", tile=arguments.tile, overlap=arguments.overlap)
    result = segmenter(arguments.photographs)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    height, width = result.labels.shape
    print(
        f"{width} x {height} in windows of {arguments.tile}: {seconds:.0f} s, of which the network "
        f"{segmenter.network_seconds:.0f} s; peak memory {(peak - before) / 2**30:.2f} GiB above start-up "
        f"({before / 2**30:.2f} GiB), the pixels being {result.image.nbytes / 2**30:.2f} GiB"
    )


@torch.inference_mode()
def compare(arguments: argparse.Namespace) -> None:
    pixels = mosaic(arguments.photographs, *SMALL_SIZE) if arguments.image is None else read_image(arguments.image)
    height, width = ((side - 1) // 32 * 32 + 1 for side in pixels.shape[:2])
    pixels = pixels[:height, :width]  # so that aligned corners fall on the same pixels as in the windows
    whole = Segmenter.load(arguments.weights, device="cpu")
    preprocessing = whole.card.preprocessing.model_dump() | {"resize": "keep", "size": None}
    card = whole.card.model_copy(update={"preprocessing": Preprocessing(**preprocessing)})
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
        borders = (
            {0} if axis.padded_length > axis.length else {0, axis.length}
        )  # where window and image end at the same pixel
        for seam in {min(s, axis.length) for start in axis.starts for s in (start, start + axis.tile)} - borders:
            near = slice(max(0, seam - FAR), seam + FAR)
            far[(near, slice(None)) if along == 0 else (slice(None), near)] = False
    same = (whole.predict_coarse(pixels).labels() == prediction.labels()).mean()
    print(f"{size}, the image-level feature held fixed: labels agree on {same:.2%}")
    if far.any():
        print(f"  logits differ by at most {difference[far].max():.1e} at {FAR} pixels from seams ({far.mean():.0%})")
    print(f"  logits differ by less than 1e-4 at {(difference < 1e-4).mean():.0%} of all pixels")


class FixedFeature(nn.Module):
    """Return the same feature vector at every position, whatever the input."""

    def __init__(self, feature: Tensor) -> None:
        super().__init__()
        self.feature = feature

    def forward(self, x: Tensor) -> Tensor:
        return self.feature.expand(len(x), -1, *x.shape[-2:])


def hold_image_level_feature(segmenter: Segmenter, pixels: Pixels) -> None:
    aspp = segmenter.model.aspp
    features: list[Tensor] = []
    hook = aspp.pooling.register_forward_hook(lambda *call: features.append(call[-1].mean((2, 3), keepdim=True)))
    segmenter(pixels)
    hook.remove()
    aspp.pooling = FixedFeature(features[0])


def mosaic(folder: Path, width: int, height: int) -> Pixels:
    """Fill an image with photographs at their own scale, row by row."""
    picture = np.zeros((height, width, 3), np.uint8)
    paths = sorted(folder.glob("*.jpg"))
    x = y = tallest = number = 0
    while y < height:
        part = read_image(paths[number % len(paths)])[: height - y, : width - x]
        picture[y : y + part.shape[0], x : x + part.shape[1]] = part
        tallest, x, number = max(tallest, part.shape[0]), x + part.shape[1], number + 1
        if x >= width:
            x, y, tallest = 0, y + tallest, 0
    return picture


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
