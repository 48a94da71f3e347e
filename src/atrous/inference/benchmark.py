"""Compare the engines and precisions of a network: time, memory, and difference from eager PyTorch.

Every configuration runs in a process of its own, so that thread pools and memory are its own, and the processes take
turns, so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from atrous.allocator import keep_freed_memory
from atrous.errors import AtrousError
from atrous.inference.engines.create import EXPORTED, check_names, create_engine
from atrous.inference.segmenter import Segmenter
from atrous.progress import OnProgress
from atrous.weights import find_weights, read_card

Run: TypeAlias = Callable[[], "NDArray[np.float32] | None"]
"""One forward pass; the result, if any, is compared between processes."""

WARM_UP_RUNS = 2

EAGER = "eager"
"""The network as PyTorch runs it layer by layer, which the engines are compared with; not an engine itself."""


@dataclass(frozen=True)
class Timing:
    """The measurements of one engine and precision.

    `seconds` are those of each run; `peak_memory` is the largest resident memory of the process in bytes, the libraries
    included, or None where the system does not report it; `difference` is the largest absolute difference from the
    scores of eager PyTorch, divided by their largest absolute value, or None if there are no scores to compare.
    """

    engine: str
    precision: str
    seconds: tuple[float, ...]
    peak_memory: int | None
    difference: float | None

    @property
    def median(self) -> float:
        """The median time of a run in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """The tenth and the ninetieth percentile of the times in seconds."""
        low, high = np.percentile(self.seconds, (10, 90))
        return float(low), float(high)


@dataclass(frozen=True)
class Benchmark:
    """The measurements of all engines and precisions on one input.

    `multiply_adds` are those of a run; `peaks` are the peak throughputs of PyTorch on this machine in multiply-adds per
    second, by precision.
    """

    timings: list[Timing]
    batch: int
    multiply_adds: int
    peaks: dict[str, float]

    def images_per_second(self, timing: Timing) -> float:
        """The throughput at the median time."""
        return self.batch / timing.median

    def share_of_peak(self, timing: Timing) -> float | None:
        """The throughput in multiply-adds per second, divided by the peak; None if the peak was not measured."""
        peak = self.peaks.get(timing.precision)
        return None if peak is None else self.multiply_adds / timing.median / peak


class TimedProcess:
    """A process that prepares a forward pass and times it on request.

    `prepare(*arguments)` is called in the process, and must be a function that can be pickled; it returns the function
    to time. As a context manager, the process ends with the block.

    Attributes: `result`, the result of the first run.
    Raises: `AtrousError` with the message of an exception in `prepare` or in the first runs.
    """

    def __init__(self, prepare: Callable[..., Run], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, pipe = context.Pipe()
        self._process = context.Process(target=_serve, args=(pipe, prepare, arguments), daemon=True)
        self._process.start()
        pipe.close()
        self.result: NDArray[np.float32] | None = self._receive()

    def time_run(self) -> float:
        """Run once and return the time in seconds."""
        self._pipe.send("run")
        return float(self._receive())

    def peak_memory(self) -> int | None:
        """Return the largest resident memory of the process in bytes; None where the system does not report it."""
        self._pipe.send("memory")
        return self._receive()

    def __enter__(self) -> TimedProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.terminate()

    def _receive(self) -> Any:
        try:
            kind, value = self._pipe.recv()
        except EOFError:
            raise AtrousError("The process of an engine ended unexpectedly, perhaps for lack of memory.") from None
        if kind == "error":
            raise AtrousError(value)
        return value


def _serve(pipe: Connection, prepare: Callable[..., Run], arguments: tuple[Any, ...]) -> None:
    """Prepare, warm up, and answer requests until the other end of the pipe is closed."""
    try:
        run = prepare(*arguments)
        result = run()
        for _ in range(WARM_UP_RUNS - 1):
            run()
    except Exception as error:
        pipe.send(("error", str(error).strip() or type(error).__name__))
        return
    pipe.send(("result", result))
    try:
        while True:
            if pipe.recv() == "memory":
                pipe.send(("memory", _peak_memory()))
                continue
            start = time.perf_counter()
            run()
            pipe.send(("seconds", time.perf_counter() - start))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return


def _peak_memory() -> int | None:
    """The largest resident memory of this process in bytes.

    On Linux it is read from /proc, because `getrusage` also counts the process that started this one.
    """
    if sys.platform == "win32":
        return None
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def take_turns(
    processes: Sequence[TimedProcess], rounds: int, on_progress: OnProgress | None = None
) -> list[tuple[float, ...]]:
    """Time processes in turn, `rounds` times each; returns the seconds of each process."""
    seconds: list[list[float]] = [[] for _ in processes]
    for done in range(1, rounds + 1):
        for runs, process in zip(seconds, processes, strict=True):
            runs.append(process.time_run())
        if on_progress is not None:
            on_progress(done, rounds)
    return [tuple(runs) for runs in seconds]


def benchmark_engines(
    weights: str | Path,
    configurations: Sequence[tuple[str, str]],
    *,
    size: tuple[int, int] = (513, 513),
    batch: int = 1,
    output_stride: int | None = None,
    rounds: int = 15,
    on_progress: OnProgress | None = None,
) -> Benchmark:
    """Measure engines and precisions on the CPU on a random input of `size` (height, width).

    Eager PyTorch comes first, unless the weights are an exported network, whose first engine is the reference.

    `configurations` are pairs of engine and precision, such as `("onnxruntime", "float32")`.

    Raises: `AtrousError` for unknown weights, or an engine or precision that is not available.
    """
    for names in configurations:
        check_names(*names)
    exported = find_weights(weights).suffix in EXPORTED
    pairs = [*configurations] if exported else [(EAGER, "float32"), *configurations]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(TimedProcess(prepare_engine, str(weights), *pair, size, batch, output_stride))
            for pair in pairs
        ]
        seconds = take_turns(processes, rounds, on_progress)
        timings = [
            Timing(engine, precision, runs, process.peak_memory(), relative_difference(process, processes[0]))
            for (engine, precision), runs, process in zip(pairs, seconds, processes, strict=True)
        ]
    measured = {precision for _, precision in pairs}
    peaks = {precision: measure_peak(precision) for precision in PEAK_PRECISIONS if precision in measured}
    return Benchmark(timings, batch, batch * _count(weights, size, output_stride), peaks)


def _count(weights: str | Path, size: tuple[int, int], output_stride: int | None) -> int:
    """Count the multiply-adds of one image without loading the weights."""
    import torch

    from atrous.analysis.counts import multiply_adds
    from atrous.models import build_from_card

    path = find_weights(weights)
    metadata = create_engine(path).metadata if path.suffix in EXPORTED else None
    with torch.device("meta"):
        model = build_from_card(read_card(path) if metadata is None else metadata.card).eval()
    if stride := output_stride or (metadata and metadata.output_stride):
        model.set_output_stride(stride)
    return multiply_adds(model, *size)


def relative_difference(process: TimedProcess, reference: TimedProcess) -> float | None:
    """Compute the largest difference of a process's result, divided by the largest absolute value of the reference.

    None if one of them has no result.
    """
    if process.result is None or reference.result is None:
        return None
    largest = max(np.abs(reference.result).max(), np.finfo(np.float32).tiny)  # a new classifier's scores may all be 0
    return float(np.abs(process.result - reference.result).max() / largest)


def prepare_engine(
    weights: str, engine: str, precision: str, size: tuple[int, int], batch: int, output_stride: int | None
) -> Run:
    """Prepare the forward pass of an engine, or of eager PyTorch, for a `TimedProcess`."""
    generator = np.random.default_rng(0)
    images = generator.standard_normal((batch, 3, *size), np.float32)
    if engine != EAGER:
        segmenter = Segmenter.load(
            weights, engine=engine, precision=precision, output_stride=output_stride, device="cpu"
        )
    else:
        from atrous.weights import load

        segmenter = Segmenter(load(weights), device="cpu")
        segmenter.set_output_stride(output_stride or segmenter.engine.output_stride)
    return lambda: np.asarray(segmenter.engine(images), np.float32)


PEAK_PRECISIONS = ("float32", "bfloat16")
"""The precisions whose peak is measured; PyTorch has no 8-bit operations to compare with."""

PEAK_MULTIPLY_ADDS = {"matrix": 2048**3, "convolution": 512 * 512 * 9 * 64 * 64}
"""The multiply-adds of the two operations whose throughput counts as the machine's peak."""


def measure_peak(precision: str, rounds: int = 9) -> float:
    """Measure the peak throughput of PyTorch on the processor, in multiply-adds per second.

    It is the larger of that of a matrix product of 2048 x 2048 and that of a 3x3 convolution with 512 channels.
    """
    with ExitStack() as stack:
        processes = [
            stack.enter_context(TimedProcess(_prepare_peak, operation, precision)) for operation in PEAK_MULTIPLY_ADDS
        ]
        seconds = take_turns(processes, rounds)
    return max(count / min(runs) for count, runs in zip(PEAK_MULTIPLY_ADDS.values(), seconds, strict=True))


def _prepare_peak(operation: str, precision: str) -> Run:
    import torch
    import torch.nn.functional as F

    keep_freed_memory()  # or page faults take longer than the arithmetic
    dtype = getattr(torch, precision)
    if operation == "matrix":
        factor = torch.randn(2048, 2048, dtype=dtype)

        def multiply() -> None:
            torch.mm(factor, factor)

        return multiply
    x = torch.randn(1, 512, 64, 64, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.randn(512, 512, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)

    def convolve() -> None:
        F.conv2d(x, weight, padding=1)

    return convolve
