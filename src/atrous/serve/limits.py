"""Limits of the service, and the errors with which requests beyond them are refused."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields

from atrous.errors import AtrousError
from atrous.inference.memory import MEMMAP_PIXELS


@dataclass(frozen=True)
class Limits:
    """Limits on what a request may cost, all of them positive.

    Raises: `AtrousError` for a limit that is not positive, or more pixels than are held in memory.
    """

    body_bytes: int = 32_000_000
    """The size of the body of a request."""
    held_bytes: int = 512_000_000
    """The sizes of all bodies that are held at the same time, from their reception to the response."""
    pixels: int = 32_000_000
    """The pixels of an image, which are checked before it is decoded."""
    probability_values: int = 134_000_000
    """Pixels times classes of a request that needs the probability of each class: a CRF, or probabilities as result."""
    queue: int = 64
    """Requests that are accepted and not yet answered."""
    uploads: int = 256
    """Requests whose bodies are received at the same time."""
    seconds: float = 60.0
    """The time from the acceptance of a request to its result."""
    client_seconds: float = 20.0
    """The time that a client has to send a request, and may let pass without reading of the response."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not 0 < value < math.inf:
                raise AtrousError(f"The limit {each.name} is {value}: a positive number is expected.")
        if self.held_bytes < self.body_bytes:
            raise AtrousError(
                f"The limit of {self.held_bytes / 1e6:g} MB for all bodies is below that of one, "
                f"{self.body_bytes / 1e6:g} MB: raise the former or lower the latter."
            )
        if self.pixels >= MEMMAP_PIXELS:
            raise AtrousError(
                f"The limit of {self.pixels / 1e6:.0f} megapixels is too high: labels of {MEMMAP_PIXELS / 1e6:.0f} "
                "megapixels and more are kept in temporary files, and nothing of a request is written to disk."
            )


REASONS: dict[str, tuple[int, str]] = {
    "invalid_request": (400, "The body is not what its headers say, such as a form that is cut off."),
    "unauthorized": (401, "The token is missing or wrong."),
    "unknown_model": (404, "No such weights were named when the service was started."),
    "not_acceptable": (406, "None of the formats in `Accept` is offered."),
    "slow_upload": (408, "The body did not arrive in time."),
    "body_too_large": (413, "The body exceeds the limit in bytes."),
    "image_too_large": (413, "The image exceeds the limit in pixels, or needs too much memory for this request."),
    "unsupported_media_type": (415, "The body is compressed, or a form other than `multipart/form-data`."),
    "invalid_option": (422, "An option is unknown, out of range, or not supported by the network."),
    "invalid_image": (422, "The body is no image in a supported format, or a damaged one."),
    "headers_too_large": (431, "The headers exceed 64 KiB."),
    "queue_full": (429, "Too many requests wait: try again after `Retry-After` seconds."),
    "internal_error": (500, "An error of atrous itself."),
    "stopping": (503, "The service stops and takes no new requests."),
    "busy": (503, "Too many bodies are being received, or held in memory."),
    "out_of_memory": (503, "Memory ran out."),
    "timeout": (503, "The result was not ready in time."),
}
"""The reasons for which requests are refused: their HTTP status, and an explanation."""


class ServiceError(AtrousError):
    """A request that is refused, with the reason's key in `REASONS`, its HTTP status, and headers of the response."""

    def __init__(self, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = REASONS[code][0]
        self.headers = dict(headers or {})


class Admission:
    """Count the requests in progress, and refuse those beyond a limit or while the service stops.

    It may be used from several threads.
    """

    def __init__(self, limit: int, workers: int) -> None:
        self._limit = limit
        self._workers = workers
        self._seconds = 1.0  # the average time of work on a request
        self._lock = threading.Lock()
        self.running = self.total = 0
        self.stopping = False

    def check(self) -> None:
        """Refuse a request that could not be accepted now.

        Raises: `ServiceError` (stopping, queue_full).
        """
        if self.stopping:
            raise ServiceError("stopping", "The service stops: send the request to another one.", {"Retry-After": "10"})
        if self.running >= self._limit:
            wait = max(1, math.ceil(self._seconds * self.running / self._workers))
            raise ServiceError(
                "queue_full",
                f"{self.running} requests are in progress, the most that are accepted: try again in {wait} s.",
                {"Retry-After": str(wait)},
            )

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Count a request within the block.

        Raises: `ServiceError` (stopping, queue_full).
        """
        with self._lock:
            self.check()
            self.running += 1
            self.total += 1
        try:
            yield
        finally:
            with self._lock:
                self.running -= 1

    def record(self, seconds: float) -> None:
        """Record the time of work on a request, from which the waiting time of others is estimated."""
        self._seconds += 0.1 * (seconds - self._seconds)


class Uploads:
    """Count the bodies that are being received, and the bytes of all that are held, and refuse those beyond a limit.

    They are counted apart from `Admission`, so that slow clients take no place of a request that could be processed.
    It is used by one thread, that of the event loop.
    """

    def __init__(self, limit: int, byte_limit: int) -> None:
        self._limit = limit
        self._byte_limit = byte_limit
        self.running = self.total = self.held_bytes = 0

    @contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """Count the bytes of a body as held until the end of the block, which reports them to the yielded function.

        Raises: `ServiceError` (busy), from that function, for a body that does not fit.
        """
        held = 0

        def count(size: int) -> None:
            nonlocal held
            if self.held_bytes + size > self._byte_limit:
                megabytes = f"{self.held_bytes / 1e6:.0f} MB"
                raise ServiceError("busy", f"{megabytes} of requests are held: try again.", {"Retry-After": "1"})
            held += size
            self.held_bytes += size

        try:
            yield count
        finally:
            self.held_bytes -= held

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Count a body that is received within the block.

        Raises: `ServiceError` (busy).
        """
        if self.running >= self._limit:
            raise ServiceError("busy", f"{self.running} bodies are being received: try again.", {"Retry-After": "1"})
        self.running += 1
        self.total += 1
        try:
            yield
        finally:
            self.running -= 1
