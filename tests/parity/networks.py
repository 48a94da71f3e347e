"""Networks of other libraries with random weights and batch statistics, and their differences to ours."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import atrous
from atrous.models import SegmentationModel
from tests.offline import skip_without

TOLERANCE = 1e-4

_OPERATORS: list[torch.library.Library] = []


def import_torchvision(module: str = "torchvision") -> Any:
    """Import torchvision, or a library that imports it; skip the tests of a file without it.

    The operators that torchvision registers are compiled for one release of torch; the schemas of two of them let it
    import without them. They vanish with the object that defines them.
    """
    skip_without("torchvision")
    skip_without(module.partition(".")[0])
    try:
        return import_module(module)
    except RuntimeError:
        operators = torch.library.Library("torchvision", "FRAGMENT")
        _OPERATORS.append(operators)
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return import_module(module)


def load(network: nn.Module, path: Path) -> SegmentationModel:
    """Save the state dict of another library's network, and load it."""
    torch.save(network.state_dict(), path)
    return atrous.load(path)


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """Compute the largest difference, relative to the largest absolute value of outputs that are not constant."""
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.05 * theirs.abs().max()
    return float((ours - theirs).abs().max() / theirs.abs().max())


def check(ours: Tensor, theirs: Tensor, record_property: pytest.RecordProperty) -> None:
    """Check that outputs agree, and record the difference for the table."""
    difference = relative_difference(ours, theirs)
    record_property("relative_difference", difference)
    assert difference <= TOLERANCE
