"""mIoU of a network on images of PASCAL VOC 2012 val before and after the fully connected CRF, also near boundaries.

    python benchmarks/crf_voc.py VOC_FOLDER -o CACHE --w1 4 --sigma-alpha 49 --sigma-beta 5 [-w WEIGHTS]

VOC_FOLDER as for `benchmarks/voc.py`. The parameters are those that `atrous crf tune` found on images of train.
CACHE keeps the network's probabilities as 16-bit floats, so that other parameters need no other run of the network.

The band is the trimap of DeepLab v1: the pixels with another label, void included, within 5 pixels (Euclidean). Void
itself is not counted. One confusion matrix over all images, each for the whole image and for the band.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from atrous import Segmenter
from atrous.crf import Bilateral, dense_crf_labels
from atrous.crf.team import limited_to
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
    parser.add_argument("--workers", type=int, help="images at a time; by default as many as Python finds fit")
    parser.add_argument("--images", type=int, help="only the first so many")
    arguments = parser.parse_args()

    dataset = open_dataset(f"voc2012:{arguments.folder}?split=val")
    dataset = dataset.select(range(min(arguments.images or len(dataset), len(dataset))))
    bilateral = Bilateral(arguments.w1, arguments.sigma_alpha, arguments.sigma_beta)
    files = [arguments.out / f"{name}.npy" for name in dataset.names]
    missing = [index for index, file in enumerate(files) if not file.exists()]
    segmenter = Segmenter.load(arguments.weights) if missing else None
    for index in missing:
        assert segmenter is not None
        found = segmenter(dataset[index].image, probabilities=True).probabilities
        assert found is not None
        with writing(files[index]) as temporary:
            np.save(temporary, found.astype(np.float16))

    count = len(dataset.classes)

    def counts(index: int) -> tuple[dict[tuple[str, str], np.ndarray], float]:
        """Confusion matrices of one image, and the share of its labels that the CRF changed."""
        sample = dataset[index]
        maps = np.load(files[index]).astype(np.float32)
        maps /= maps.sum(0)
        with limited_to(1):
            after = dense_crf_labels(sample.image, maps, bilateral=bilateral, prune=arguments.prune)
        before = maps.argmax(0)
        band = np.where(near_boundary(sample.labels, arguments.band), sample.labels, VOID)
        matrices = {
            (when, where): confusion(truth, labels, count, VOID)
            for when, labels in (("before", before), ("after", after))
            for where, truth in (("image", sample.labels), ("band", band))
        }
        return matrices, float((before != after).mean())

    totals: dict[tuple[str, str], np.ndarray] = {}
    moved = 0.0
    with ThreadPoolExecutor(arguments.workers) as pool:
        for matrices, share in pool.map(counts, range(len(dataset))):
            moved += share / len(dataset)
            for key, matrix in matrices.items():
                totals[key] = totals.get(key, 0) + matrix

    print(f"{arguments.weights}, {len(dataset)} images, Gaussian 3/3, bilateral w1 {bilateral.w:g}, ", end="")
    print(f"sigma_alpha {bilateral.sigma_alpha:g}, sigma_beta {bilateral.sigma_beta:g}, prune {arguments.prune:g}")
    print(f"{'':16s}{'before':>9s}{'after':>9s}{'change':>9s}")
    for where in ("image", "band"):
        pair = [totals[when, where] for when in ("before", "after")]
        for title, (one, two) in (
            ("mIoU", [100 * mean_iou(matrix) for matrix in pair]),
            ("accuracy", [100 * matrix.trace() / matrix.sum() for matrix in pair]),
        ):
            print(f"{title + ', ' + where:16s}{one:9.2f}{two:9.2f}{two - one:+9.2f}")
    share = totals["before", "band"].sum() / totals["before", "image"].sum()
    print(f"the band of {arguments.band:g} pixels is {share:.1%} of those counted; {moved:.2%} of the labels changed")


if __name__ == "__main__":
    main()
