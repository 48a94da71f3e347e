"""Lightning Fabric for a stage: devices, precision, DDP or FSDP, and stopping all processes after the same step."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from atrous.errors import AtrousError, did_you_mean
from atrous.training.fsdp import shard

if TYPE_CHECKING:
    from lightning_fabric import Fabric

ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps")
STRATEGIES = ("ddp", "fsdp")
FSDP_PRECISIONS = ("32-true", "bf16-mixed")


def check_requirements() -> None:
    """Check that the packages of the extra `train` are installed.

    Raises: `AtrousError` with the command that installs them.
    """
    for name in ("lightning_fabric", "matplotlib", "tensorboard"):
        if find_spec(name) is None:
            raise AtrousError(f"Training requires {name}: pip install 'atrous[train]'.")


def make_fabric(
    precision: Any, accelerator: str, devices: int | str, strategy: str, *, unused_parameters: bool = False
) -> Fabric:
    """Launch Fabric on the requested devices or, under `torchrun`, on the device of each process.

    With `unused_parameters`, DDP looks for those without a gradient in every step, which takes time.

    Raises: `AtrousError` for missing devices, and for FSDP with a single process or an unsupported precision.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    local, processes = (int(os.environ.get(name, 0)) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    nodes = processes // local if local else 1
    if accelerator == "auto" and not torch.cuda.is_available():
        accelerator = "cpu"
    if accelerator not in ACCELERATORS:
        raise AtrousError(
            f"There is no device '{accelerator}'.{did_you_mean(accelerator, ACCELERATORS)} Use auto, cpu, cuda or mps."
        )
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise AtrousError("This machine, or its build of torch, has no CUDA device: train with --device auto or cpu.")
    if devices == "auto" and (accelerator == "cpu" or torch.cuda.device_count() < 2):
        devices = 1
    chosen: Any = "auto"
    if strategy == "fsdp":
        world = processes or (torch.cuda.device_count() if devices == "auto" else int(devices))
        if world < 2:
            raise AtrousError(
                "fsdp shards a network over processes and needs at least 2: use --devices 2 or more, or start "
                "with torchrun --nproc-per-node 2."
            )
        if precision not in FSDP_PRECISIONS:
            raise AtrousError(f"precision={precision} is not supported with fsdp: use {' or '.join(FSDP_PRECISIONS)}.")
        chosen = ModelParallelStrategy(shard, data_parallel_size=world, tensor_parallel_size=1)
    elif local > 1 or nodes > 1 or (not local and devices not in (1, "1")):
        chosen = DDPStrategy(find_unused_parameters=unused_parameters)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning_fabric")
            fabric = Fabric(
                accelerator=accelerator, devices=local or devices, num_nodes=nodes, strategy=chosen, precision=precision
            )
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise AtrousError(f"Cannot train on {devices} devices of kind '{accelerator}': {reason}") from error
    fabric.launch()
    return fabric


class TrainingInterrupted(KeyboardInterrupt):
    """A training that stopped by a signal (Ctrl-C, SIGTERM) after its checkpoint was written.

    Attributes: `signal`, its number; `step`, the last finished step of the stage.
    """

    def __init__(self, signal: int, step: int) -> None:
        super().__init__(f"stopped by signal {signal} after step {step}")
        self.signal = signal
        self.step = step


class StopRequest(threading.Event):
    """An event that is set by the first signal to stop; `signal` is its number, SIGINT in the other processes."""

    signal: int = signal.SIGINT


@contextmanager
def catch_interrupt() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into an event, to stop after the current step; a second one stops at once."""
    interrupted = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def request_stop(number: int, frame: Any) -> None:
        interrupted.signal = number
        interrupted.set()
        restore()

    for number in handlers:
        signal.signal(number, request_stop)
    try:
        yield interrupted
    finally:
        restore()


def reduce(fabric: Fabric, value: Tensor, operation: str) -> float:
    """Reduce a number over all processes ("mean" or "sum")."""
    reduced = fabric.all_reduce(value, reduce_op=operation)
    assert isinstance(reduced, Tensor)
    return float(reduced)


def any_process(fabric: Fabric, event: threading.Event) -> bool:
    """Check whether an event is set in any process, so that all stop after the same step."""
    return reduce(fabric, torch.tensor(float(event.is_set()), device=fabric.device), "sum") > 0
