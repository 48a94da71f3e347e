"""Connections of the server: clients that are slow, or send what is not HTTP, are cut off."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from atrous.serve.schemas import PROBLEM_TYPE, Problem

DRAIN_BYTES = 64 * 2**20
"""The bytes of a refused body that are received and discarded, so that its client reads the answer and no error."""


MIN_PROGRESS = 2**14
"""The bytes of a response that a client has to receive in the time that it has."""


class Connection(H11Protocol):
    """A connection that ends if its client lets `client_seconds` pass without what it has to do.

    That is to send the header of a request completely, and to receive some of a response that waits. The body of a
    request has its own limit, see `upload.read_body`; what is left of it after the response is received and discarded
    for as long, up to `DRAIN_BYTES`.
    """

    client_seconds = 20.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._discarded = 0
        self._unsent = 0
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._start_reading_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_reading_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_discarding = self._is_discarding
        super().data_received(data)
        if was_discarding and self._is_discarding:
            self._discarded += len(data)
            if self._discarded > DRAIN_BYTES:
                self.transport.abort()
        elif self.conn.their_state is not h11.IDLE or was_discarding:
            self._stop_reading_timer()
        if self.conn.their_state is h11.IDLE and self._reading is None and not self.transport.is_closing():
            self._start_reading_timer()

    @property
    def _is_discarding(self) -> bool:
        """Whether the body of a request that was answered still arrives."""
        return self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_discarding and not self.transport.is_closing():
            self._discarded = 0
            self._unset_keepalive_if_required()
            self._start_reading_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unsent = self.transport.get_write_buffer_size()
        self._writing = self.loop.call_later(self.client_seconds, self._check_progress)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _check_progress(self) -> None:
        """Cut off a client that received next to nothing of the response since the last check."""
        unsent = self.transport.get_write_buffer_size()
        if self._unsent - unsent < MIN_PROGRESS:
            self.transport.abort()
            return
        self._unsent = unsent
        self._writing = self.loop.call_later(self.client_seconds, self._check_progress)

    def _start_reading_timer(self) -> None:
        self._stop_reading_timer()
        self._reading = self.loop.call_later(self.client_seconds, self.transport.abort)

    def _stop_reading_timer(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def send_400_response(self, msg: str) -> None:
        problem = Problem(
            title=HTTPStatus.BAD_REQUEST.phrase, status=400, code="invalid_request", detail=f"{msg} Send HTTP/1.1."
        )
        content = problem.model_dump_json().encode()
        headers = [
            (b"content-type", PROBLEM_TYPE.encode()),
            (b"content-length", str(len(content)).encode()),
            (b"connection", b"close"),
        ]
        events: list[Any] = [
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=content),
            h11.EndOfMessage(),
        ]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # otherwise a response is under way
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def connection_class(client_seconds: float) -> type[Connection]:
    """Make the class of connections with a limit of time."""
    return type("Connection", (Connection,), {"client_seconds": client_seconds})
