"""Modules that another thread is importing are waited for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from atrous import Segmenter
from atrous.lazy import imported
from atrous.weights import save
from tests.inference.engines.examples import small_network

FIRST_USES = """
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from atrous import Segmenter

segmenter = Segmenter.load(sys.argv[1])
assert "torch" not in sys.modules


def segment(seed):
    image = np.random.default_rng(seed).integers(0, 255, (60, 70, 3), np.uint8)
    return segmenter(image, probabilities=True).probabilities.shape


with ThreadPoolExecutor(4) as pool:
    assert list(pool.map(segment, range(12))) == [(5, 60, 70)] * 12
"""


def test_a_module_that_is_not_there_or_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    assert imported("json") is json
    assert imported("atrous.none") is None
    monkeypatch.setitem(sys.modules, "atrous.none", None)
    assert imported("atrous.none") is None


def test_threads_that_need_torch_first_wait_for_its_import(tmp_path: Path) -> None:
    """The converted network runs without torch; probabilities need it."""
    weights = save(small_network(), tmp_path / "small.safetensors")
    Segmenter.load(weights)  # converts the network
    result = subprocess.run(
        [sys.executable, "-c", FIRST_USES, str(weights)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-1500:]
