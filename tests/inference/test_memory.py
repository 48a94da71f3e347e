from __future__ import annotations

import numpy as np
import pytest
import torch

from atrous import Segmenter
from atrous.inference import memory
from tests.inference.networks import SmallNetwork, letter_card, noise


def test_the_estimate_counts_inputs_and_outputs_of_the_widest_layer() -> None:
    model = SmallNetwork(False).eval()
    needs = memory.bytes_per_pixel(model, model.scores, torch.device("cpu"))
    widest = 4 * (3 + 8 / 4)  # the first convolution: 3 channels in, 8 out at half the size
    assert needs == pytest.approx(2 * widest, rel=0.1)
    assert memory.free_memory("cpu") > 2**20


def test_large_labels_are_memory_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MEMMAP_PIXELS", 1000)
    result = Segmenter(SmallNetwork(True), letter_card(True), device="cpu", tile=65)(noise(70, 80))
    assert isinstance(result.labels, np.memmap)
    assert sum(result.class_fractions().values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_errors_are_recognized(error: Exception, expected: bool) -> None:
    assert memory.is_out_of_memory(error) == expected
