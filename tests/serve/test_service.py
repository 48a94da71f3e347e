"""`Service`: results in batches are those of one by one, and work is bounded."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

from atrous import Segmenter
from atrous.cli.serve import serve
from atrous.inference.refine import segment
from atrous.serve import Limits, SegmentOptions, Service, ServiceError
from tests.inference.networks import waves
from tests.serve.conftest import encode

SIZES = ((61, 97), (97, 61), (80, 80))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let networks of services wait until the event is set."""
    event, run = threading.Event(), Service._run_network

    def wait(self: Service, jobs: Any) -> Any:
        assert event.wait(60)
        return run(self, jobs)

    monkeypatch.setattr(Service, "_run_network", wait)
    return event


async def until(condition: Any) -> None:
    """Wait for a condition."""
    for _ in range(6000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the condition did not become true")


def count_passes(service: Service) -> float:
    """Count the forward passes so far."""
    (metric,) = service.metrics.batch.collect()
    return next(sample.value for sample in metric.samples if sample.name.endswith("_count"))


def test_requests_that_wait_together_share_passes_and_equal_one_by_one(weights: Path, gate: threading.Event) -> None:
    service = Service([str(weights)], max_batch=8)
    segmenter = Segmenter.load(weights)
    images = [np.roll(waves(*SIZES[number % 3]), 3 * number, 1) for number in range(64)]

    async def run() -> list[Any]:
        tasks = [asyncio.ensure_future(service.segment(image)) for image in images]
        await until(lambda: len(service._batcher) >= 8 and service.admission.running == 64)
        gate.set()
        return await asyncio.gather(*tasks)

    results = asyncio.run(run())
    service.close()
    for image, result in zip(images, results, strict=True):
        assert np.array_equal(result.segmentation.labels, segmenter(image).labels)
    assert count_passes(service) < 32


@pytest.mark.parametrize(
    "options",
    [
        SegmentOptions(output_stride=8),
        SegmentOptions(tta="v2"),
        SegmentOptions(tta="pspnet_single"),
        SegmentOptions(crf="v2"),
        SegmentOptions(probabilities=True),
    ],
    ids=str,
)
def test_options_give_what_the_library_gives(service: Service, weights: Path, options: SegmentOptions) -> None:
    image = waves(61, 97)
    result = asyncio.run(service.segment(image, options)).segmentation
    segmenter = Segmenter.load(weights, output_stride=options.output_stride, tta=options.tta)
    expected = segment(segmenter, image, options.crf, probabilities=options.probabilities)
    assert np.array_equal(result.labels, expected.labels)
    if options.probabilities:
        assert result.probabilities is not None
        np.testing.assert_array_equal(result.probabilities, expected.probabilities)


def test_strides_of_requests_at_the_same_time_do_not_mix(service: Service, weights: Path) -> None:
    strides = (8, 16, 32) * 4
    expected = {stride: Segmenter.load(weights, output_stride=stride)(waves(80, 80)).labels for stride in (8, 16, 32)}

    async def run() -> list[Any]:
        return await asyncio.gather(
            *(service.segment(waves(80, 80), SegmentOptions(output_stride=stride)) for stride in strides)
        )

    for stride, result in zip(strides, asyncio.run(run()), strict=True):
        assert result.output_stride == stride
        assert np.array_equal(result.segmentation.labels, expected[stride])


def test_a_full_queue_a_late_result_and_a_caller_that_left(weights: Path, gate: threading.Event) -> None:
    service = Service([str(weights)], limits=Limits(queue=4, seconds=2))

    async def run() -> None:
        tasks = [asyncio.ensure_future(service.segment(waves(61, 97))) for _ in range(4)]
        await until(lambda: service.admission.running == 4)
        with pytest.raises(ServiceError) as error:
            await service.segment(waves(61, 97))
        assert (error.value.code, error.value.status) == ("queue_full", 429)
        assert int(error.value.headers["Retry-After"]) >= 1
        await until(lambda: len(service._batcher) > 0)
        tasks[3].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [ServiceError] * 3 + [asyncio.CancelledError]
        assert {result.code for result in results[:3]} == {"timeout"}
        assert service.admission.running == 0
        gate.set()
        await service.segment(waves(61, 97))
        assert len(service._batcher) == 0

    asyncio.run(run())
    service.close()
    assert count_passes(service) <= service.networks.parallel + 1  # what waited was dropped


def test_the_defaults_of_the_command_are_those_of_the_service() -> None:
    options = {name: each.default for name, each in inspect.signature(serve).parameters.items()}
    limits = Limits()
    assert options["max_body_mb"] * 1e6 == limits.body_bytes
    assert options["max_held_mb"] * 1e6 == limits.held_bytes
    assert options["max_megapixels"] * 1e6 == limits.pixels
    assert options["max_probabilities"] * 1e6 == limits.probability_values
    assert (options["max_queue"], options["max_uploads"]) == (limits.queue, limits.uploads)
    assert (options["timeout"], options["client_timeout"]) == (limits.seconds, limits.client_seconds)


def test_memory_of_a_request_is_freed_at_once(service: Service) -> None:
    """Without waiting for the garbage collector, which comes after dozens of requests."""
    made: list[weakref.ref[Any]] = []

    def encode_result(segmentation: Any) -> bytes:
        made.append(weakref.ref(segmentation))
        return b""

    async def run() -> None:
        for _ in range(3):
            await service.segment(encode(waves(61, 97)), encode=encode_result)

    gc.disable()
    try:
        asyncio.run(run())
        time.sleep(0.2)  # threads forget their last work
        assert len(made) == 3
        assert [reference() for reference in made] == [None] * 3
    finally:
        gc.enable()


def test_limits_of_size(weights: Path) -> None:
    service = Service([str(weights)], limits=Limits(pixels=6000, probability_values=6000))

    def code(image: Any, options: SegmentOptions | None = None) -> str:
        with pytest.raises(ServiceError) as error:
            asyncio.run(service.segment(image, options))
        return error.value.code

    asyncio.run(service.segment(waves(60, 100)))
    assert code(waves(61, 100)) == "image_too_large"
    assert code(encode(waves(61, 100))) == "image_too_large"
    assert code(waves(60, 100), SegmentOptions(crf="v2")) == "image_too_large"
    assert code(b"\xff\xd8\xff\xe0 no photograph") == "invalid_image"
    service.close()
    assert code(waves(60, 100)) == "stopping"
