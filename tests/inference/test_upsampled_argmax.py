from __future__ import annotations

import importlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from atrous.inference import upsampled_argmax as module
from atrous.inference.argmax_numpy import argmax_numpy
from atrous.inference.upsampled_argmax import (
    _argmax_in_chunks,
    _compiled_argmax,
    interpolate_rows,
    resize_taps,
    upsampled_argmax,
)

SIDES = st.integers(1, 40)


@pytest.fixture(params=["compiled", "interpreted"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with the compiled kernel, and as in a process that has not imported numba."""
    if request.param == "interpreted":
        monkeypatch.delitem(sys.modules, "atrous.inference.argmax_kernel", raising=False)
        monkeypatch.setattr(module, "_interpreted_seconds", 0.0)
        monkeypatch.setattr(module, "INTERPRETED_SECONDS", float("inf"))
    else:
        importlib.import_module("atrous.inference.argmax_kernel")
    return request.param


def reference(scores: torch.Tensor, size: tuple[int, int], align_corners: bool) -> tuple[np.ndarray, np.ndarray]:
    """Labels of interpolating all classes, and where the two best differ by more than rounding."""
    full = F.interpolate(scores[None], size=size, mode="bilinear", align_corners=align_corners)[0]
    if len(full) == 1:
        return full.argmax(0).numpy(), np.ones(size, bool)
    best = full.topk(2, 0).values
    return full.argmax(0).numpy(), (best[0] - best[1] > 1e-5 * scores.abs().max()).numpy()


@given(
    classes=st.integers(1, 30),
    height=SIDES,
    width=SIDES,
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    align_corners=st.booleans(),
    smooth=st.booleans(),
    seed=st.integers(0, 99),
)
def test_equals_interpolate_then_argmax(
    classes: int, height: int, width: int, size: tuple[int, int], align_corners: bool, smooth: bool, seed: int
) -> None:
    scores = torch.randn(classes, height, width, generator=torch.Generator().manual_seed(seed))
    if smooth:
        scores = F.avg_pool2d(scores, 5, 1, 2) * 10
    expected, sure = reference(scores, size, align_corners)
    labels = upsampled_argmax(scores, size, align_corners=align_corners)
    assert labels.shape == size
    np.testing.assert_array_equal(labels[sure], expected[sure])
    taps = resize_taps(scores, size, align_corners=align_corners)
    compiled, interpreted, banded = (np.empty(size, np.uint8) for _ in range(3))
    _compiled_argmax(scores.numpy(), *taps, compiled)
    argmax_numpy(scores.numpy(), *taps, interpreted)
    _argmax_in_chunks(scores, *taps, banded)
    np.testing.assert_array_equal(compiled, interpreted)
    np.testing.assert_array_equal(compiled, labels)
    np.testing.assert_array_equal(banded[sure], expected[sure])


@given(height=SIDES, width=SIDES, size=st.tuples(st.integers(1, 90), st.integers(1, 90)), align_corners=st.booleans())
def test_rows_are_those_of_interpolate(height: int, width: int, size: tuple[int, int], align_corners: bool) -> None:
    scores = torch.randn(3, height, width)
    expected = F.interpolate(scores[None], size=size, mode="bilinear", align_corners=align_corners)[0]
    rows, columns = resize_taps(scores, size, align_corners=align_corners)
    torch.testing.assert_close(interpolate_rows(scores, rows, columns), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("side", "target"), [(33, 513), (129, 1025)])
def test_at_the_papers_sizes(kind: str, side: int, target: int, align_corners: bool) -> None:
    scores = torch.randn(21, side, side)
    expected, sure = reference(scores, (target, target), align_corners)
    labels = upsampled_argmax(scores, (target, target), align_corners=align_corners)
    np.testing.assert_array_equal(labels[sure], expected[sure])


def test_ties_go_to_the_smaller_label(kind: str) -> None:
    scores = torch.zeros(3, 4, 4)
    scores[1:] = 1.0
    assert (upsampled_argmax(scores, (16, 16), align_corners=False) == 1).all()


def test_numba_is_imported_when_it_pays() -> None:
    script = """
import sys
import numpy as np
from atrous.inference import upsampled_argmax as module
scores = np.random.default_rng(0).standard_normal((20, 9, 9), np.float32)
first = module.upsampled_argmax(scores, (60, 60), align_corners=False)
print("numba" in sys.modules)
module.INTERPRETED_SECONDS = module._interpreted_seconds + 1e-6
last = module.upsampled_argmax(scores, (1200, 1200), align_corners=False)
print("numba" in sys.modules, (first == last[9::20, 9::20]).mean() > 0.9)
again = module.upsampled_argmax(scores, (1200, 1200), align_corners=False)
print((last == again).all())
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True", "True", "True"]


def test_crop_and_out(kind: str) -> None:
    scores = torch.randn(5, 9, 9)
    whole = upsampled_argmax(scores, (65, 65), align_corners=True)
    out = np.zeros((40, 50), np.uint8)
    assert upsampled_argmax(scores, (65, 65), align_corners=True, crop=(40, 50), out=out) is out
    np.testing.assert_array_equal(out, whole[:40, :50])


def test_more_than_256_classes(kind: str) -> None:
    scores = torch.zeros(300, 3, 3)
    scores[299] = 1
    labels = upsampled_argmax(scores, (7, 7), align_corners=False)
    assert labels.dtype == np.uint16
    assert (labels == 299).all()


def test_the_number_of_threads_stays_as_it_was_set() -> None:
    """Numba's OpenMP pool is as large as the machine, and would be so for torch too. In a process of its own to see."""
    script = """
import sys
import torch
from atrous.inference.upsampled_argmax import upsampled_argmax
upsampled_argmax(torch.randn(300, 9, 9), (600, 600), align_corners=False)
assert "numba" in sys.modules
print(torch.get_num_threads())
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["1"]
