"""Run the application of a service by uvicorn, and stop it without losing a request."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from atrous.allocator import release_freed_memory
from atrous.errors import AtrousError
from atrous.serve.protocol import connection_class
from atrous.serve.service import Service

GRACE_SECONDS = 1.0
"""The time after a signal in which new requests are answered with 503, before connections are closed."""

IDLE_SECONDS = 5.0
"""The time without requests after which memory that is kept for the next one is returned to the system."""


def listen(host: str, port: int) -> socket.socket:
    """Open the socket of a server; port 0 is any free one.

    Raises: `AtrousError` for an address that is in use, or not one of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        advice = "another server runs there; choose another --port" if in_use else f"{error}; check --host and --port"
        raise AtrousError(f"Cannot listen on {host}, port {port}: {advice}.") from error
    return listener


def run_server(app: FastAPI, service: Service, listener: socket.socket, on_start: Callable[[], None]) -> int | None:
    """Serve until a signal stops the server; returns the signal.

    After SIGTERM or SIGINT new requests are answered with 503, and those in progress are finished. A second SIGINT
    stops at once.
    """
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it warns of each damaged form
    config = uvicorn.Config(
        app,
        http=connection_class(service.limits.client_seconds),
        ws="none",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=512,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=round(service.limits.seconds + service.limits.client_seconds),
    )
    server = _Server(config, service, on_start)
    server.run(sockets=[listener])
    return server.signal


class _Server(uvicorn.Server):
    """A server that refuses new requests after a signal, and closes its connections once the others are finished."""

    def __init__(self, config: uvicorn.Config, service: Service, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self.signal: int | None = None
        self._service = service
        self._on_start = on_start
        self._stopped_at = 0.0
        self._requests = 0
        self._active_at: float | None = None  # None after the memory was released

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT == sig:
            self.force_exit = self.should_exit = True
        elif self.signal is None:
            self.signal = sig
            self._stopped_at = time.monotonic()
            self._service.stop()

    def _release_when_idle(self) -> None:
        """Return freed memory to the system, once after each time in which there were requests."""
        if self._requests != self._service.requests or not self._service.is_idle:
            self._requests, self._active_at = self._service.requests, time.monotonic()
        elif self._active_at is not None and time.monotonic() - self._active_at > IDLE_SECONDS:
            self._active_at = None
            gc.collect()  # bodies of refused requests may be part of the tracebacks of errors
            asyncio.get_running_loop().run_in_executor(None, release_freed_memory)

    async def on_tick(self, counter: int) -> bool:
        self._release_when_idle()
        waited = time.monotonic() - self._stopped_at > GRACE_SECONDS
        if self.signal is not None and waited and self._service.is_idle:
            return True
        return await super().on_tick(counter)
