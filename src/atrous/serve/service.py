"""`Service`: segment the images of concurrent requests, in batches and within limits, by the fast engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from atrous.crf import dense_crf
from atrous.errors import AtrousError
from atrous.imaging.io import Pixels
from atrous.inference.memory import is_out_of_memory
from atrous.inference.prediction import CoarsePrediction
from atrous.inference.segmentation import Segmentation
from atrous.inference.tta import TTAConfig
from atrous.serve.batcher import Batcher
from atrous.serve.job import Job
from atrous.serve.limits import Admission, Limits, ServiceError, Uploads
from atrous.serve.metrics import Metrics
from atrous.serve.networks import Model, Networks
from atrous.serve.options import SegmentOptions
from atrous.serve.turns import Turns

T = TypeVar("T")
Encoder: TypeAlias = Callable[[Segmentation], bytes]
Prediction: TypeAlias = CoarsePrediction | Segmentation
"""Coarse scores, or the segmentation of an image that was segmented in windows."""
Step: TypeAlias = Callable[[], Any]
Worker: TypeAlias = Batcher[Step, Any]

MAX_BATCH = {"cpu": 1, "cuda": 8, "mps": 8}
"""The largest batch by kind of device, unless another is chosen.

On a CPU a batch takes no less time than its images one by one: see `benchmarks/serve_batching.py`.
"""

CLOSE_SECONDS = 5.0
"""The time that work for which nobody waits any more may take when the service is closed."""


@dataclass(frozen=True)
class SegmentResult:
    """The segmentation of an image, the model and output stride that made it, and the seconds of each stage.

    `content` is what `encode` returned, None without it; the stages are those of `metrics.STAGES`.
    """

    segmentation: Segmentation
    model: Model
    output_stride: int
    seconds: dict[str, float]
    content: bytes | None = None


class _BatchKey(NamedTuple):
    """What images have in common that share a forward pass: engine, test-time augmentation, size of the input.

    An image that is segmented in windows shares its passes with no other: its size is None, `alone` its own number.
    """

    engine: int
    tta: TTAConfig
    size: tuple[int, int] | None
    alone: int = 0


class Service:
    """Segment images for concurrent callers with the weights named at its start.

    `weights` are ids or files, see `Networks`; `max_batch` is the largest number of images in a forward pass. `engine`,
    `precision` and `device` are those of `Segmenter.load`. Images whose network inputs have the same size, and which
    wait for the same network at the same settings, share a forward pass; they are never padded to the size of others.

    It may be used from several event loops and threads. `close` ends its threads.

    Raises: `AtrousError` for weights that cannot be loaded.
    """

    def __init__(
        self,
        weights: Sequence[str],
        *,
        limits: Limits | None = None,
        max_batch: int | None = None,
        engine: str = "auto",
        precision: str = "auto",
        device: str = "auto",
    ) -> None:
        self.limits = limits or Limits()
        self.networks = Networks(weights, engine=engine, precision=precision, device=device, throughput=True)
        workers = self.networks.parallel
        self.max_batch = max_batch or MAX_BATCH[self.networks.device.partition(":")[0]]
        self._batcher = Batcher[Job, Prediction](self._run_network, workers=workers, max_batch=self.max_batch)
        self._workers = Worker(_run_steps, workers=workers + 1)
        # One CRF at a time: it uses all cores, and memory for several maps of all classes.
        self._crf_worker = Worker(_run_steps, workers=1)
        # Others wait with their bodies alone: decoded images and network inputs take up to a hundred times the memory.
        self._turns = Turns(2 * workers * self.max_batch + 2)
        self.admission = Admission(self.limits.queue, workers)
        self.uploads = Uploads(self.limits.uploads, self.limits.held_bytes)
        self.metrics = Metrics(
            queued=lambda: len(self._turns) + len(self._batcher), running=lambda: self.admission.running
        )

    @property
    def models(self) -> dict[str, Model]:
        """The models by id; the first is the default."""
        return self.networks.models

    @property
    def is_idle(self) -> bool:
        """Whether no request is in progress."""
        return self.admission.running == 0 and self.uploads.running == 0

    @property
    def requests(self) -> int:
        """The number of requests that were accepted, or whose bodies were received, so far."""
        return self.admission.total + self.uploads.total

    def stop(self) -> None:
        """Refuse new requests; those in progress are finished."""
        self.admission.stopping = True

    def warm_up(self) -> None:
        """Begin to compile the CRF in a thread, unless an earlier process has: requests then need not wait for that."""
        image = np.zeros((16, 16, 3), np.uint8)
        self._crf_worker.submit(None, lambda: dense_crf(image, np.full((2, 16, 16), 0.5, np.float32), output="labels"))

    def close(self) -> None:
        """Refuse new requests, finish what is running within some seconds, and end the threads."""
        self.stop()
        for each in (self._workers, self._crf_worker, self._batcher):
            each.close(CLOSE_SECONDS)
        self.networks.close()

    async def segment(
        self, image: bytes | Pixels, options: SegmentOptions | None = None, *, encode: Encoder | None = None
    ) -> SegmentResult:
        """Segment an image, the content of a file or an array (H, W, 3) uint8; with `encode`, encode the result.

        All work is done in threads. If the caller is canceled, work that has not begun is dropped.

        Raises: `ServiceError` for an image, option or load beyond the limits, see `limits.REASONS`.
        """
        options, start = options or SegmentOptions(), time.perf_counter()
        with self.admission.enter():
            try:
                result = await asyncio.wait_for(self._process(image, options, encode), self.limits.seconds)
            except (asyncio.TimeoutError, TimeoutError):
                raise ServiceError(
                    "timeout",
                    f"The result was not ready within {self.limits.seconds:g} s: try later, or send a smaller image.",
                    {"Retry-After": "10"},
                ) from None
            except ServiceError:
                raise
            except AtrousError as error:  # what the network does not support, such as another size of an exported one
                raise ServiceError("invalid_option", str(error)) from error
            except Exception as error:
                if is_out_of_memory(error):
                    raise ServiceError("out_of_memory", "Memory ran out: send a smaller image.") from error
                raise
        self.admission.record(time.perf_counter() - start - result.seconds["queue"])
        return result

    async def _process(self, image: bytes | Pixels, options: SegmentOptions, encode: Encoder | None) -> SegmentResult:
        options.check()
        model = self.networks.find(options.weights)
        engine = await asyncio.shield(asyncio.wrap_future(self.networks.engine(model, options.output_stride)))
        arrival = time.perf_counter()
        async with self._turns.take():
            job = Job(options, self.limits, engine, waited=time.perf_counter() - arrival)
            try:
                content = await self._work(job, image, encode)
            finally:
                job.give_up()
        return SegmentResult(job.segmentation, model, engine.output_stride, job.seconds, content)

    async def _work(self, job: Job, image: bytes | Pixels, encode: Encoder | None) -> bytes | None:
        """Run the steps of a request, and encode its result."""
        await self._run(job, "decode", lambda: job.decode(image))
        await self._run(job, "preprocess", job.preprocess)
        prediction = await self._predict(job)
        await self._run(job, "argmax", lambda: job.label(prediction))
        if job.options.crf is not None:
            await self._run(job, "crf", job.refine, self._crf_worker)
        if encode is None:
            return None
        return await self._run(job, "encode", lambda: encode(job.segmentation))

    async def _run(self, job: Job, stage: str, step: Callable[[], T], worker: Worker | None = None) -> T:
        """Run a step of a request in a thread, and record its time."""

        def timed() -> T:
            job.check()
            start = time.perf_counter()
            try:
                return step()
            finally:
                self._record(job, stage, time.perf_counter() - start)

        result: T = await asyncio.wrap_future((worker or self._workers).submit(None, timed))
        return result

    async def _predict(self, job: Job) -> Prediction:
        """Wait for the network, together with others of the same key, and for its scores."""
        size = None if job.network_input is None else job.network_input.size
        key = _BatchKey(id(job.engine), job.options.tta_config, size, 0 if size else id(job))
        job.submitted = time.perf_counter()
        return await asyncio.wrap_future(self._batcher.submit(key, job))

    def _run_network(self, jobs: list[Job]) -> Sequence[Prediction | BaseException]:
        """Run the network for jobs of one key: in one forward pass, or for an image in windows."""
        start = time.perf_counter()
        for job in jobs:
            self._record(job, "queue", job.waited + start - job.submitted)
        inputs = [job.network_input for job in jobs if job.network_input is not None]
        results: Sequence[Prediction | BaseException]
        if inputs and jobs[0].segmenter.fits_in_memory(inputs):
            results = jobs[0].segmenter.predict_batch(inputs)
            self.metrics.batch.observe(len(jobs))
        else:
            results = [_segment_alone(job) for job in jobs]
        seconds = time.perf_counter() - start
        for job in jobs:
            self._record(job, "network", seconds)
        return results

    def _record(self, job: Job, stage: str, seconds: float) -> None:
        job.seconds[stage] = seconds
        self.metrics.seconds.labels(stage).observe(seconds)


def _segment_alone(job: Job) -> Segmentation | BaseException:
    """Segment an image in windows, or one that does not fit into memory together with others."""
    try:
        return job.segment_alone()
    except Exception as error:
        return error


def _run_steps(steps: list[Step]) -> list[Any]:
    return [step() for step in steps]
