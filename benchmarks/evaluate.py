"""Measure the overhead of evaluation: its wall time against the sum of its forward passes.

python benchmarks/evaluate.py 'voc2012:/path?split=val' -w WEIGHTS [--threads 2] [--tta v3] [--output-stride 8]
"""

from __future__ import annotations

import argparse

import torch

from atrous import Segmenter
from atrous.data.catalog import open_dataset
from atrous.evaluation import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("-w", "--weights", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tta", default="none")
    parser.add_argument("--output-stride", type=int)
    parser.add_argument("--no-boundaries", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = open_dataset(arguments.data)
    segmenter = Segmenter.load(arguments.weights, tta=arguments.tta)
    if arguments.output_stride:
        segmenter.set_output_stride(arguments.output_stride)
    evaluate(segmenter, data.select(range(2)))  # compiles the kernels
    result = evaluate(segmenter, data, boundaries=not arguments.no_boundaries)
    for name, value in result.metrics().items():
        print(f"{name:>24} {100 * value:.2f}")
    images, seconds, network = len(result.image_scores), result.seconds, result.network_seconds
    print(f"{images} images: {seconds:.1f} s, forward passes {network:.1f} s")
    print(f"ratio {seconds / network:.3f}, {1000 * network / images:.0f} ms each")


if __name__ == "__main__":
    main()
