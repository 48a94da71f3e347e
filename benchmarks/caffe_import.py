"""Compare imported Caffe networks with a miniature of Caffe: the largest difference of logits, relative to the largest.

    python -m benchmarks.caffe_import

The networks have the layers of their released prototxts at 1/16 of the channels, and random values; `tests/weights/
importers/caffe_runtime.py` computes them as Caffe does and writes the files.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from atrous.weights.importers import caffe
from tests.weights.importers.test_caffe import DILATED, NETWORKS, relative, written

CASES = {name: (define, arguments, size) for name, (define, arguments, size, _) in NETWORKS.items()}
CASES |= {name: (define, arguments, (40, 56)) for name, (define, arguments, _) in DILATED.items()}


@torch.no_grad()
def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, (define, arguments, size) in CASES.items():
            path, image, expected = written(Path(folder), define, arguments, size)
            model, card = caffe.read(path)
            model.eval()
            scores = model.scores(image)
            logits = scores if scores.shape == expected.shape else model(image)
            print(f"{name:26} {card.model:24} {relative(logits, expected):.0e}")


if __name__ == "__main__":
    main()
