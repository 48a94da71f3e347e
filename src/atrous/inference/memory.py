"""Whether an image fits: what a network needs, what there is, and how running out of it looks."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from atrous.imaging.labels import label_dtype
from atrous.inference.tta import Scores

PROBE = 129
"""The side of the square image whose activations are measured."""

SPARE = 0.8
"""How much of what is free may be used."""

MAPPED_FROM = 2**26
"""Pixels from which labels lie in a file that is mapped into memory, and that the system may put away."""

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


@torch.inference_mode()
def bytes_per_pixel(model: nn.Module, scores: Scores, device: torch.device) -> float:
    """What one pixel of the network's input takes at the widest place of the network.

    Twice the largest input and output of any layer: convolutions keep a rearranged copy of both. It is measured on a
    small square, for activations grow with the area.
    """
    largest = 0

    def measure(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal largest
        held = [x for x in (*inputs, output) if isinstance(x, torch.Tensor)]
        largest = max(largest, sum(x.numel() * x.element_size() for x in held))

    hooks = [layer.register_forward_hook(measure) for layer in model.modules() if not any(layer.children())]
    try:
        scores(torch.zeros(1, 3, PROBE, PROBE, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return 2 * largest / PROBE**2


def available(device: torch.device) -> float:
    """Free bytes on the device, as far as can be told: infinite where it cannot."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return float("inf")
    return min(_free_in_system(), _free_in_group())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _OUT_OF_MEMORY)


def _free_in_system() -> float:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:  # macOS: all there is, the system makes room
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return float("inf")


def _free_in_group() -> float:
    """What a container's limit leaves (control groups, version 2)."""
    group = Path("/sys/fs/cgroup")
    try:
        return float((group / "memory.max").read_text()) - float((group / "memory.current").read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return float("inf")


def label_array(size: tuple[int, int], classes: int) -> NDArray[np.integer]:
    """Room for labels: in memory, or for large images in a temporary file that goes when nobody holds the array."""
    if size[0] * size[1] < MAPPED_FROM:
        return np.empty(size, label_dtype(classes, 0))
    with tempfile.TemporaryFile(prefix="atrous-") as file:
        return np.memmap(file, label_dtype(classes, 0), "w+", shape=size)
