"""mIoU of a network on images of PASCAL VOC 2012 val before and after the fully connected CRF, also near boundaries.

    python benchmarks/crf_voc.py VOC_FOLDER -o CACHE --w1 4 --sigma-alpha 49 --sigma-beta 5 [-w WEIGHTS]

VOC_FOLDER as for `benchmarks/voc.py`. The parameters are those that `atrous crf tune` found on images of train.
CACHE keeps the network's probabilities as 16-bit floats, so that other parameters need no other run of the network.

The band is the trimap of DeepLab v1: the pixels with another label, void included, within 5 pixels (Euclidean). Void
itself is not counted. One confusion matrix over all images, each for the whole image and for the band.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from atrous import Segmenter
from atrous.crf import Bilateral, dense_crf_labels
from atrous.crf.tune import confusion, mean_iou
from atrous.data.catalog import open_dataset
from atrous.files import writing

VOID = 255


def near_boundary(truth: np.ndarray, width: float) -> np.ndarray:
    """Which pixels have one of another label, void included, no further away than `width`."""
    distance = np.zeros(truth.shape, np.float32)  # to the nearest pixel of another label
    for label in np.unique(truth):
        mask = (truth == label).astype(np.uint8)
        distance += cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) * mask
    return distance <= width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-w", "--weights", default="deeplab_v3.mobilenet_v2.voc")
    parser.add_argument("-o", "--out", type=Path, required=True, help="where the probabilities are kept")
    parser.add_argument("--w1", type=float, default=4.0)
    parser.add_argument("--sigma-alpha", type=float, default=49.0)
    parser.add_argument("--sigma-beta", type=float, default=5.0)
    parser.add_argument("--prune", type=float, default=0.01)
    parser.add_argument("--band", type=float, default=5.0)
    parser.add_argument("--images", type=int, help="only the first so many")
    arguments = parser.parse_args()

    dataset = open_dataset(f"voc2012:{arguments.folder}?split=val")
    dataset = dataset.select(range(min(arguments.images or len(dataset), len(dataset))))
    bilateral = Bilateral(arguments.w1, arguments.sigma_alpha, arguments.sigma_beta)
    segmenter: Segmenter | None = None
    count = len(dataset.classes)
    totals = {(when, where): np.zeros((count, count), np.int64) for when in ("before", "after") for where in "ib"}
    seconds = moved = 0.0
    for index, name in enumerate(dataset.names):
        image, truth = dataset[index].image, dataset[index].labels
        file = arguments.out / f"{name}.npy"
        if not file.exists():
            segmenter = segmenter or Segmenter.load(arguments.weights)
            found = segmenter(Image.fromarray(image), probabilities=True).probabilities
            assert found is not None
            with writing(file) as temporary:
                np.save(temporary, found.astype(np.float16))
        maps = np.load(file).astype(np.float32)
        maps /= maps.sum(0)
        start = time.perf_counter()
        after = dense_crf_labels(image, maps, bilateral=bilateral, prune=arguments.prune)
        seconds += time.perf_counter() - start
        before = maps.argmax(0)
        moved += float((before != after).mean())
        band = np.where(near_boundary(truth, arguments.band), truth, VOID)
        for when, labels in (("before", before), ("after", after)):
            totals[when, "i"] += confusion(truth, labels, count, VOID)
            totals[when, "b"] += confusion(band, labels, count, VOID)

    print(f"{arguments.weights}, {len(dataset)} images, Gaussian 3/3, bilateral w1 {bilateral.w:g}, ", end="")
    print(f"sigma_alpha {bilateral.sigma_alpha:g}, sigma_beta {bilateral.sigma_beta:g}, prune {arguments.prune:g}")
    share = totals["before", "b"].sum() / totals["before", "i"].sum()
    print(f"{'':16s}{'before':>9s}{'after':>9s}{'change':>9s}")
    for title, where in (("mIoU, image", "i"), (f"mIoU, {arguments.band:g} px band", "b")):
        one, two = (100 * mean_iou(totals[when, where]) for when in ("before", "after"))
        print(f"{title:16s}{one:9.2f}{two:9.2f}{two - one:+9.2f}")
    for title, where in (("accuracy, image", "i"), ("accuracy, band", "b")):
        one, two = (
            100 * matrix.trace() / matrix.sum() for matrix in (totals[when, where] for when in ("before", "after"))
        )
        print(f"{title:16s}{one:9.2f}{two:9.2f}{two - one:+9.2f}")
    print(f"the band is {share:.1%} of the pixels; {moved / len(dataset):.2%} of the labels changed; ", end="")
    print(f"{1000 * seconds / len(dataset):.0f} ms per image in the CRF")


if __name__ == "__main__":
    main()
