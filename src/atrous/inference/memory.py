"""Estimate the memory that a network needs for an image, measure what is free, and recognize out-of-memory errors."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atrous.imaging.labels import label_dtype

if TYPE_CHECKING:
    import torch
    from torch import nn

    from atrous.inference.views import ScoreFunction

PROBE_SIDE = 129
"""The side of the square image on which activations are measured."""

MEMMAP_PIXELS = 2**26
"""Label maps of at least this many pixels are memory-mapped files, which the system can move to disk."""

CGROUPS = Path("/sys/fs/cgroup")
"""Where the control groups (version 2) are mounted."""

CGROUP_OF_PROCESS = Path("/proc/self/cgroup")
"""The file that names the control group of this process."""

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


def bytes_per_pixel(model: nn.Module, scores: ScoreFunction, device: torch.device) -> float:
    """Estimate the peak memory of a forward pass, in bytes per pixel of the network's input.

    The estimate is twice the largest sum of input and output of any layer, because convolutions keep a rearranged copy
    of both. It is measured on a small square image; activations grow in proportion to the area.
    """
    import torch

    largest = 0

    def measure(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal largest
        tensors = [x for x in (*inputs, output) if isinstance(x, torch.Tensor)]
        largest = max(largest, sum(x.numel() * x.element_size() for x in tensors))

    hooks = [layer.register_forward_hook(measure) for layer in model.modules() if not any(layer.children())]
    try:
        with torch.inference_mode():
            scores(torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return 2 * largest / PROBE_SIDE**2


def free_memory(device: str) -> float:
    """Measure the free memory of a device in bytes; infinite where the system does not report it."""
    if device.startswith("cuda"):
        import torch

        gpu = torch.device(device)
        reusable = torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu)  # of earlier images
        return float(torch.cuda.mem_get_info(gpu)[0] + reusable)
    if device != "cpu":
        return float("inf")
    return min(_free_system_memory(), _free_cgroup_memory())


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that memory ran out, on any device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter is torch's
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _OUT_OF_MEMORY)


def _free_system_memory() -> float:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:  # macOS: all memory, the system frees it
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return float("inf")


def _free_cgroup_memory() -> float:
    """The memory left within the limits of a container or service: those of its control group and the groups above."""
    try:
        lines = CGROUP_OF_PROCESS.read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.removeprefix("0::/") for line in lines if line.startswith("0::/"))
    group = PurePosixPath(next(names, ""))
    return min(_free_memory_of_group(CGROUPS / path) for path in (group, *group.parents))


def _free_memory_of_group(group: Path) -> float:
    try:
        limit, used = (float((group / name).read_text()) for name in ("memory.max", "memory.current"))
        numbers = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return limit - used + float(numbers["inactive_file"]) + float(numbers["active_file"])  # the page cache is freed
    except (OSError, ValueError, KeyError):  # no such file, or "max"
        return float("inf")


def allocate_labels(size: tuple[int, int], num_classes: int) -> NDArray[np.integer]:
    """Allocate a label map: in memory or, for large images, in a temporary file that is deleted with the array.

    Shape: -> (H, W) uint8, or uint16 above 256 classes.
    """
    dtype = label_dtype(num_classes, 0)
    if size[0] * size[1] < MEMMAP_PIXELS:
        return np.empty(size, dtype)
    with tempfile.TemporaryFile(prefix="atrous-") as file:
        return np.memmap(file, dtype, "w+", shape=size)
