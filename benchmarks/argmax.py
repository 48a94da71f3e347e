"""Compare the fused resize and arg-max with `F.interpolate` and `argmax`: time, ratio, memory.

    python benchmarks/argmax.py [--threads 2] [--weights WEIGHTS IMAGE]

Scores are random: smooth ones, like a network's, and noise, where no class can be ruled out. `--weights` compares the
scores of a network for an image as well.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from atrous.inference.upsampled_argmax import upsampled_argmax

CASES = ((33, 513), (65, 513), (129, 1025), (129, 129), (257, 1025))  # sides of the scores and of the labels


def median_ms(run: Callable[[], object], repeats: int = 9) -> float:
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def compare(name: str, scores: Tensor, size: int) -> None:
    def separate() -> Tensor:
        return F.interpolate(scores[None], size=(size, size), mode="bilinear", align_corners=True)[0].argmax(0)

    def fused() -> object:
        return upsampled_argmax(scores, (size, size), align_corners=True)

    different = (torch.from_numpy(fused()).long() != separate()).sum().item()  # type: ignore[arg-type]
    slow, fast = median_ms(separate), median_ms(fused)
    classes, side = scores.shape[0], scores.shape[-1]
    megabytes = classes * size * size * 4 / 2**20
    print(
        f"{classes:4d} classes {side:4d} -> {size:4d} {name:7s} {slow:8.2f} ms  {fast:7.2f} ms  {slow / fast:6.1f} x  "
        f"{megabytes + 8 * size**2 / 2**20:6.0f} MiB  {size**2 / 2**20:4.1f} MiB  {different} different labels"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", nargs=2, metavar=("WEIGHTS", "IMAGE"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"{arguments.threads} threads; interpolate + argmax, fused, ratio, memory of each")
    for classes in (21, 150):
        for side, size in CASES:
            compare("noise", torch.randn(classes, side, side), size)
            coarse = 5 * torch.randn(1, classes, 6, 6)
            compare("smooth", F.interpolate(coarse, size=(side, side), mode="bicubic")[0].contiguous(), size)
    if arguments.weights:
        from atrous import Segmenter
        from atrous.imaging.io import read_image

        weights, image = arguments.weights
        prediction = Segmenter.load(weights, device="cpu").predict_coarse(read_image(image))
        compare("real", prediction.views[0], max(prediction.input_size))


if __name__ == "__main__":
    main()
