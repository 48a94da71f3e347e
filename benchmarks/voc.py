"""Measure mIoU and pixel accuracy on PASCAL VOC 2012 val, independently of `atrous evaluate`.

    python benchmarks/voc.py VOC_FOLDER -w WEIGHTS [--output-stride 8]

VOC_FOLDER holds `JPEGImages`, `SegmentationClassAug` and `ImageSets/Segmentation/val.txt`; images of the list that are
missing are left out. One confusion matrix over all images, 255 ignored.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image

from atrous import Segmenter
from atrous.evaluation import ConfusionMatrix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-w", "--weights", default="deeplab_v3.mobilenet_v2.voc")
    parser.add_argument("--output-stride", type=int)
    arguments = parser.parse_args()

    segmenter = Segmenter.load(arguments.weights)
    if arguments.output_stride:
        segmenter.set_output_stride(arguments.output_stride)
    matrix = ConfusionMatrix(len(segmenter.card.classes), ignore_index=segmenter.card.ignore_index)
    (split_file,) = arguments.folder.glob("ImageSets/**/val.txt")
    names = [
        name for name in split_file.read_text().split() if (arguments.folder / "JPEGImages" / f"{name}.jpg").exists()
    ]
    start = time.perf_counter()
    for name in names:
        truth = np.asarray(Image.open(arguments.folder / "SegmentationClassAug" / f"{name}.png"))
        matrix.update(truth, segmenter(arguments.folder / "JPEGImages" / f"{name}.jpg").labels, name=name)
    seconds = time.perf_counter() - start

    print(f"{arguments.weights} at output stride {segmenter.output_stride}, {len(names)} images")
    print(f"mIoU {100 * matrix.miou:.2f}, pixel accuracy {100 * matrix.pixel_accuracy:.2f}")
    print(f"{1000 * seconds / len(names):.0f} ms per image, reading included")


if __name__ == "__main__":
    main()
