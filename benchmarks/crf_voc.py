"""Measure the mIoU on PASCAL VOC 2012 val before and after the fully connected CRF, also near boundaries.

    python benchmarks/crf_voc.py VOC_FOLDER -o CACHE --w1 4 --sigma-alpha 49 --sigma-beta 5 [-w WEIGHTS]

VOC_FOLDER as for `benchmarks/voc.py`. The parameters come from `atrous crf tune` on images of train. The network's
probabilities are saved in CACHE as 16-bit floats, so that trying other parameters needs no other run of the network.

The band is the trimap of `atrous evaluate`: pixels within 5 pixels of a boundary or of void. There is one confusion
matrix over all images for whole images and one for the band.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from atrous import Segmenter
from atrous.crf import Bilateral, CRFPreset, Gaussian, dense_crf
from atrous.crf.numba_backend.threads import limit_threads
from atrous.data.catalog import open_dataset
from atrous.evaluation import ConfusionMatrix, TrimapCurve
from atrous.files import writing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-w", "--weights", default="deeplab_v3.mobilenet_v2.voc")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the folder for the probabilities")
    parser.add_argument("--w1", type=float, default=4.0)
    parser.add_argument("--sigma-alpha", type=float, default=49.0)
    parser.add_argument("--sigma-beta", type=float, default=5.0)
    parser.add_argument("--prune", type=float, default=0.01)
    parser.add_argument("--band", type=int, default=5)
    parser.add_argument("--workers", type=int, help="images at a time; by default the default of ThreadPoolExecutor")
    parser.add_argument("--images", type=int, help="number of images, the first ones")
    arguments = parser.parse_args()

    dataset = open_dataset(f"voc2012:{arguments.folder}?split=val")
    dataset = dataset.select(range(min(arguments.images or len(dataset), len(dataset))))
    bilateral = Bilateral(arguments.w1, arguments.sigma_alpha, arguments.sigma_beta)
    crf = CRFPreset(Gaussian(3, 3), bilateral)
    files = [arguments.out / f"{name}.npy" for name in dataset.names]
    missing = [index for index, file in enumerate(files) if not file.exists()]
    segmenter = Segmenter.load(arguments.weights) if missing else None
    for index in missing:
        assert segmenter is not None
        probabilities = segmenter(dataset[index].image, probabilities=True).probabilities
        assert probabilities is not None
        with writing(files[index]) as temporary:
            np.save(temporary, probabilities.astype(np.float16))

    count = len(dataset.classes)

    whole = {when: ConfusionMatrix(count) for when in ("before", "after")}
    bands = {when: TrimapCurve(count, max_width=arguments.band) for when in whole}

    def refined(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the ground truth of an image, and its labels before and after the CRF."""
        sample = dataset[index]
        maps = np.load(files[index]).astype(np.float32)
        maps /= maps.sum(0)
        with limit_threads(1):
            after = dense_crf(sample.image, maps, crf, prune=arguments.prune, output="labels")
        return sample.labels, maps.argmax(0), after

    moved = 0.0
    with ThreadPoolExecutor(arguments.workers) as pool:
        for truth, before, after in pool.map(refined, range(len(dataset))):
            moved += float((before != after).mean()) / len(dataset)
            for when, labels in (("before", before), ("after", after)):
                whole[when].update(truth, labels)
                bands[when].update(truth, labels)
    band = {when: curve.within(arguments.band) for when, curve in bands.items()}

    print(f"{arguments.weights}, {len(dataset)} images, Gaussian 3/3, bilateral w1 {bilateral.w:g}, ", end="")
    print(f"sigma_alpha {bilateral.sigma_alpha:g}, sigma_beta {bilateral.sigma_beta:g}, prune {arguments.prune:g}")
    print(f"{'':16s}{'before':>9s}{'after':>9s}{'change':>9s}")
    for where, matrices in (("image", whole), ("band", band)):
        pair = matrices["before"], matrices["after"]
        for title, (one, two) in (
            ("mIoU", [100 * matrix.miou for matrix in pair]),
            ("accuracy", [100 * matrix.pixel_accuracy for matrix in pair]),
        ):
            print(f"{title + ', ' + where:16s}{one:9.2f}{two:9.2f}{two - one:+9.2f}")
    share = band["before"].counts.sum() / whole["before"].counts.sum()
    print(f"the band of {arguments.band} pixels is {share:.1%} of those counted; {moved:.2%} of the labels changed")


if __name__ == "__main__":
    main()
