"""Connect to a Ray cluster, or start one on this machine that sends nothing, and close it again."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from atrous.errors import AtrousError, describe_unexpected
from atrous.telemetry import import_without_telemetry

OBJECT_STORE_BYTES = 256 * 2**20
"""The shared memory of a cluster on this machine: names and counts pass through it, no images."""


@dataclass(frozen=True)
class Resources:
    """The number of workers, and the cores and GPUs of each.

    `workers` None means as many as the cluster has room for; `num_gpus` None means a GPU each if the cluster has any.
    """

    workers: int | None = None
    num_cpus: float = 1
    num_gpus: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("--workers", self.workers), ("--num-cpus", self.num_cpus)):
            if value is not None and not value > 0:
                raise AtrousError(f"{name} {value:g}: expected a number above 0.")
        if self.num_gpus is not None and not self.num_gpus >= 0:
            raise AtrousError(f"--num-gpus {self.num_gpus:g}: expected 0 or more.")

    def resolve(self, available: dict[str, float]) -> Resources:
        """Fill in what is not given from the resources of a cluster.

        Raises: `AtrousError` for a worker that the cluster has no room for.
        """
        cpus, gpus = available.get("CPU", 0.0), available.get("GPU", 0.0)
        num_gpus = self.num_gpus if self.num_gpus is not None else float(gpus >= 1)
        fits = int(cpus // self.num_cpus)
        if num_gpus:
            fits = min(fits, int(gpus // num_gpus))
        if fits < 1:
            raise AtrousError(
                f"A worker of {self.num_cpus:g} cores and {num_gpus:g} GPUs does not fit into a cluster of {cpus:g} "
                f"cores and {gpus:g} GPUs: choose smaller --num-cpus and --num-gpus."
            )
        return Resources(self.workers or fits, self.num_cpus, num_gpus)


@contextmanager
def connect(address: str | None, resources: Resources) -> Iterator[Resources]:
    """Connect to the cluster at an address, or start one on this machine, for the block; yields resolved resources.

    "auto" is the cluster that this machine belongs to. A cluster on this machine has no dashboard, and ends with the
    block, or with this process if it is killed; two idle processes of Ray's then remain for some minutes. A connection
    that exists already is used and kept.

    Raises: `AtrousError` if Ray is not installed, no cluster answers, or a worker does not fit into it.
    """
    ray = import_without_telemetry("ray", "scale")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # or it tells that lost workers are replaced by new ones
    connected = ray.is_initialized()
    if not connected:
        try:
            ray.init(**(_local(resources) if address is None else {"address": address}), **_QUIET)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise AtrousError(
                f"No connection to a Ray cluster at '{address or 'this machine'}' ({describe_unexpected(error)}). "
                "Start one with `ray start --head`, or leave out --address for a cluster of this machine alone."
            ) from error
    _silence()
    try:
        yield resources.resolve(ray.cluster_resources())
    finally:
        if not connected:
            ray.shutdown()


_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


def _local(resources: Resources) -> dict[str, Any]:
    """Choose the arguments of `ray.init` for a cluster of this machine, with room for the workers asked for."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    wanted = (resources.workers or 1) * resources.num_cpus
    return {
        "address": "local",
        "num_cpus": max(cores, int(-(-wanted // 1))),
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
    }


def _silence() -> None:
    """Turn off Ray Data's own progress bars and notes."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
