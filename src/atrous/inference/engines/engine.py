"""Base class of the engines that run a network."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError, describe_unexpected
from atrous.inference.engines.metadata import NetworkMetadata, Precision
from atrous.lazy import imported

if TYPE_CHECKING:
    from torch import Tensor

Batch: TypeAlias = Union["NDArray[np.float32]", "Tensor"]
"""Images or scores: a NumPy array, or a tensor where torch computes them."""


MAX_PARALLEL = 4
"""The largest number of calls at once, because each needs memory for its activations."""


class ConversionError(AtrousError):
    """A network that cannot be converted for another runtime."""


class Engine(ABC):
    """Run a network: `engine(batch)` computes the scores of a batch of preprocessed images of any size.

    The scores are low-resolution logits, or logits at the size of the image where the network post-processes them
    (`metadata.output_is_resized_scores` is False).

    Attributes: `name`, as in `ENGINES`; `precision` of the convolutions; `device`, such as "cpu" or "cuda:0";
    `metadata` of the network; `parallel`, the number of calls that threads may make at once.
    Shape: (N, 3, H, W) float32 -> (N, K, h, w) float32.
    """

    name: ClassVar[str]
    precision: Precision
    device: str = "cpu"
    parallel: int = 1
    metadata: NetworkMetadata

    @property
    def align_corners(self) -> bool:
        """Whether resizing the scores aligns the corners of the maps."""
        return self.metadata.align_corners

    @property
    def output_stride(self) -> int:
        """The output stride that the network runs at."""
        return self.metadata.output_stride

    @abstractmethod
    def __call__(self, batch: Batch) -> Batch:
        """Compute the scores of a batch.

        Shape: (N, 3, H, W) float32 -> (N, K, h, w) float32, a NumPy array or a tensor.
        """

    def _check_size(self, batch: Batch) -> None:
        """Refuse a batch of another size than the one a network was exported for.

        Raises: `AtrousError`.
        """
        fixed, size = self.metadata.size, (batch.shape[-2], batch.shape[-1])
        if fixed not in (None, size):
            assert fixed is not None
            raise AtrousError(
                f"This network was exported for inputs of {fixed[0]} x {fixed[1]} (height, width), not {size[0]} x "
                f"{size[1]}: export it without --size for other scales and tiles."
            )

    def _check_scores(self, batch: Batch, scores: NDArray[np.float32]) -> None:
        """Check that a file computes scores of each image and class of its card.

        Raises: `AtrousError`.
        """
        expected = (batch.shape[0], len(self.metadata.card.classes))
        if scores.ndim != 4 or scores.shape[:2] != expected or 0 in scores.shape:
            raise AtrousError(
                f"The network computes scores of shape {scores.shape}, expected {expected[0]} x {expected[1]} x h x w: "
                "the file is damaged, or its card is another network's. Export the weights again."
            )


def run_error(batch: Batch, error: Exception) -> AtrousError:
    """Describe a network that a runtime loaded but does not run."""
    return AtrousError(
        f"The network does not run on a batch of shape {tuple(batch.shape)} ({describe_unexpected(error)}): the file "
        "is damaged, or its operations do not fit. Export the weights again."
    )


def to_numpy(batch: Any) -> NDArray[np.float32]:
    """Convert a batch to a contiguous array in main memory; an array or a tensor on the CPU is not copied."""
    if not isinstance(batch, np.ndarray):
        batch = batch.numpy(force=True)
    return np.ascontiguousarray(batch, np.float32)


def num_threads() -> int:
    """Choose the number of threads of other runtimes than torch: torch's where it is loaded, else what it would be.

    That is `OMP_NUM_THREADS`, or the number of physical cores that this process may run on.
    """
    if torch := imported("torch"):
        threads: int = torch.get_num_threads()
        return threads
    setting = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if setting.isdigit() and int(setting) > 0:
        return int(setting)
    affinity = getattr(os, "sched_getaffinity", None)  # unlike os.cpu_count, it heeds taskset and containers
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, cores // 2) if _hyperthreading() else cores


def parallel_calls() -> int:
    """Choose the number of calls at once that gives the highest throughput: each has its share of the cores."""
    return min(num_threads(), MAX_PARALLEL)


def _hyperthreading() -> bool:
    try:
        return Path("/sys/devices/system/cpu/smt/active").read_text().strip() == "1"
    except OSError:
        return False
