"""SIGTERM under load: every request that the server accepted is answered, and the process ends with 0."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from tests.serve.hostile import OCTETS, SEGMENT, picture
from tests.serve.server import Answer, Server, exchange, post

CLIENTS = 24


class Clients:
    """Clients that send one request after the other, each over a connection of its own, until nobody listens."""

    def __init__(self, port: int, request: bytes) -> None:
        self.answers: list[tuple[float, Answer]] = []  # and when the request was sent
        self._port = port
        self._request = request
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        try:
            while True:
                start = time.monotonic()
                self.answers.append((start, exchange(self._port, [self._request])))
        except ConnectionRefusedError:
            pass

    def join(self) -> None:
        for thread in self._threads:
            thread.join(120)


@pytest.mark.slow
@pytest.mark.parametrize("queue", [64, 8])
def test_no_accepted_request_is_lost(weights: Path, tmp_path: Path, queue: int) -> None:
    request = post(SEGMENT, picture("JPEG", 1, (1600, 1200)), [OCTETS])
    with Server(["-w", weights, "--max-queue", str(queue)], tmp_path / "log") as server:
        clients = Clients(server.port, request)
        end = time.monotonic() + 60
        while sum(answer.status == 200 for _, answer in clients.answers) < 8 and time.monotonic() < end:
            time.sleep(0.1)
        signaled = time.monotonic()
        server.terminate()
        clients.join()
        assert server.process.wait(60) == 0
    before = [answer for start, answer in clients.answers if start < signaled]
    after = [answer for start, answer in clients.answers if start >= signaled]
    assert {answer.status for answer in before} <= {200, 429, 503}
    assert sum(answer.status == 200 for answer in before) >= 8 + min(queue, CLIENTS) // 2  # some of them afterwards
    for answer in before + after:
        if answer.status:
            assert len(answer.body) == int(answer.headers["content-length"])  # none is cut off
        if answer.status == 503:
            assert b'"stopping"' in answer.body
    # A connection that arrives as the server closes was never accepted: it ends without an answer, and at once.
    assert {answer.status for answer in after} <= {503, 0}
    assert sum(answer.status == 0 for answer in after) <= CLIENTS


@pytest.mark.slow
def test_a_body_that_arrives_during_the_stop_is_answered(weights: Path, tmp_path: Path) -> None:
    request = post(SEGMENT, picture("PNG", 1, (400, 300)), [OCTETS])
    with (
        Server(["-w", weights], tmp_path / "log") as server,
        socket.create_connection(("127.0.0.1", server.port), 30) as connection,
    ):
        connection.sendall(request[: len(request) // 2])
        time.sleep(0.5)
        server.terminate()
        time.sleep(2.5)
        connection.sendall(request[len(request) // 2 :])
        assert connection.recv(100).split(b" ")[1] in (b"200", b"503")
        assert server.process.wait(60) == 0
