from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from atrous.inference.engines.engine import num_threads, to_numpy


def test_arrays_and_tensors_are_not_copied() -> None:
    array = np.zeros((1, 3, 4, 5), np.float32)
    assert to_numpy(array) is array
    tensor = torch.zeros(1, 3, 4, 5)
    assert np.shares_memory(to_numpy(tensor), tensor.numpy())
    assert to_numpy(tensor[..., ::2]).flags["C_CONTIGUOUS"]
    assert to_numpy(array.astype(np.float64)).dtype == np.float32


def test_threads_follow_torch() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("given", ["5", "2,1", "", "no number"])
def test_threads_without_torch(given: str) -> None:
    code = """if True:
        import sys
        from atrous.inference.engines.engine import num_threads
        print(num_threads(), "torch" in sys.modules)
    """
    environment = {**os.environ, "OMP_NUM_THREADS": given}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    threads, torch_is_loaded = printed.stdout.split()
    if torch_is_loaded == "False":  # until importing the package no longer loads torch
        expected = {"5": 5, "2,1": 2}.get(given)
        assert int(threads) == expected if expected else 1 <= int(threads) <= len(os.sched_getaffinity(0))
