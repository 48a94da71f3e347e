"""Measure time and peak memory of segmenting a GeoTIFF to a GeoTIFF and GeoJSON.

    python benchmarks/geotiff.py PHOTOGRAPHS -w WEIGHTS [--size 20000 20000] [--tile 1024]

A mosaic of the JPEGs in the folder is written to a temporary GeoTIFF, block by block. A fresh process segments it, and
prints its peak resident memory, the libraries included.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio

from atrous.imaging.io import read_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("-w", "--weights", required=True)
    parser.add_argument("--size", type=int, nargs=2, default=(20000, 20000), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.photographs, arguments.weights, arguments.tile)
        return
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder) / "scene.tif"
        write_scene(scene, arguments.photographs, *arguments.size)
        options = [str(scene), "-w", arguments.weights, "--tile", str(arguments.tile), "--measure"]
        subprocess.run([sys.executable, __file__, *options], check=True)


def write_scene(path: Path, photographs: Path, width: int, height: int, block: int = 512) -> None:
    """Write a mosaic of photographs as a GeoTIFF of blocks, compressed."""
    pictures = [read_image(file) for file in sorted(photographs.glob("*.jpg"))[:50]]
    tiles = [np.pad(p[:block, :block], ((0, block), (0, block), (0, 0)), "reflect")[:block, :block] for p in pictures]
    profile = {"driver": "GTiff", "width": width, "height": height, "count": 3, "dtype": "uint8", "tiled": True}
    layout = {"blockxsize": block, "blockysize": block, "compress": "deflate", "zlevel": 1, "crs": "EPSG:32633"}
    transform = rasterio.transform.from_origin(4e5, 5e6, 0.5, 0.5)
    with rasterio.open(path, "w", transform=transform, **profile, **layout) as file:
        for number, (_, window) in enumerate(file.block_windows(1)):
            tile = tiles[number * 7 % len(tiles)][: window.height, : window.width]
            file.write(tile.transpose(2, 0, 1), window=window)


def measure(scene: Path, weights: str, tile: int) -> None:
    """Segment the scene in this process, and print time and memory."""
    from atrous import Segmenter
    from atrous.inference.geotiff import segment_geotiff

    segmenter = Segmenter.load(weights, device="cpu", tile=tile)
    targets = {
        name: scene.with_name(f"labels{suffix}") for name, suffix in (("geotiff", ".tif"), ("geojson", ".geojson"))
    }
    start = time.perf_counter()
    height, width = segment_geotiff(segmenter, scene, targets).size
    seconds = time.perf_counter() - start
    sizes = ", ".join(f"{path.name} {os.path.getsize(path) / 2**20:.0f} MiB" for path in targets.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{width} x {height} in windows of {tile}: {seconds:.0f} s, of which the network "
        f"{segmenter.network_seconds:.0f} s; peak memory {peak / 2**20:.2f} GiB; {sizes}"
    )


if __name__ == "__main__":
    main()
