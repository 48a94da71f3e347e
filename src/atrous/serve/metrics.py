"""Metrics of the service in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

STAGES = ("decode", "preprocess", "queue", "network", "argmax", "crf", "encode")
"""The stages of a request; in `queue` it waits for its turn and for the network."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""The bounds of the histograms of times."""


class Metrics:
    """The metrics of one service, in a registry of its own.

    Attributes: `requests` by route and status code; `seconds` by stage; `batch` sizes. `content_type` is that of
    `expose()`.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, *, queued: Callable[[], int], running: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)  # resident memory, CPU time, open files
        self.requests = Counter(
            "atrous_requests", "Requests by route and status code.", ("route", "code"), registry=self._registry
        )
        self.seconds = Histogram(
            "atrous_stage_seconds", "Seconds of each stage.", ("stage",), buckets=SECONDS, registry=self._registry
        )
        for stage in STAGES:
            self.seconds.labels(stage)
        self.batch = Histogram(
            "atrous_batch_size", "Images in a forward pass.", buckets=(1, 2, 4, 8, 16, 32), registry=self._registry
        )
        waiting = Gauge(
            "atrous_queue_length", "Images that wait for their turn or the network.", registry=self._registry
        )
        waiting.set_function(queued)
        progress = Gauge(
            "atrous_requests_in_progress", "Requests accepted and not yet answered.", registry=self._registry
        )
        progress.set_function(running)

    def expose(self) -> bytes:
        """Write all metrics as text."""
        return generate_latest(self._registry)
