"""Hostile requests to a real server: each is refused, nothing is kept in memory, and others are served as before."""

from __future__ import annotations

import collections
import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.serve.hostile import KINDS, OCTETS, SEGMENT, Attack, form, make, picture
from tests.serve.server import Answer, Server, exchange, post

CLIENTS = 8
"""The number of requests at the same time."""

WARM_UP = 150
"""After these, every kind of request was made, and everything that is imported late has been."""

MARGIN_BYTES = 24 * 2**20
"""By how much memory may differ afterwards."""


@pytest.fixture(scope="module")
def server(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with Server(["-w", weights, "--client-timeout", "1.5"], folder / "log") as running:
        yield running


def send(server: Server, attack: Attack) -> Answer:
    return exchange(server.port, attack.chunks, cut=attack.cut, pause=attack.pause)


def segment(server: Server, name: str = "a.png") -> str:
    body = form(picture("PNG", 7), file_name=name)
    request = post(f"{SEGMENT}?format=png", body, [("Content-Type", "multipart/form-data; boundary=cut")])
    answer = exchange(server.port, [request])
    assert answer.status == 200, answer
    return hashlib.sha256(answer.body).hexdigest()


def attack(server: Server, numbers: range) -> None:
    """Send hostile requests, several at a time, and check the answers."""
    outcomes: dict[str, list[str]] = collections.defaultdict(list)

    def one(number: int) -> None:
        request = make(number)
        answer = send(server, request)
        if not (400 <= answer.status < 500 or (request.broken and answer.status == 0)):
            outcomes[f"{request.kind}: {answer.status}"].append(f"{number}: {answer.body[:300]!r}")
        elif answer.status and answer.headers.get("content-type", "").startswith("application/problem+json"):
            assert b'"detail"' in answer.body, (number, answer)

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(one, numbers))
    assert not outcomes, dict(outcomes)
    assert server.process.poll() is None
    log = server.log.read_text(errors="replace")
    assert "Traceback" not in log, log[-5000:]


def test_the_same_requests_are_made_each_time() -> None:
    assert make(77) == make(77)
    assert len({make(number).kind for number in range(1000)}) > 80
    assert {make(number).kind for number in range(len(KINDS))} <= {make(number).kind for number in range(WARM_UP)}


def idle_bytes(server: Server, limit: float = 0.0) -> int:
    """Read the server's memory once it is idle and has returned what it kept, or as soon as it is below a limit."""
    smallest = server.resident_bytes()
    end = time.monotonic() + 15
    while time.monotonic() < end and smallest > limit:
        time.sleep(0.5)
        smallest = min(smallest, server.resident_bytes())
    return smallest


def warm_up(server: Server) -> str:
    """Use everything that is imported or compiled late; returns the digest of the labels of an image."""
    large = post(SEGMENT, picture("JPEG", 1, (2400, 1800)), [OCTETS])
    for _ in range(8):
        assert exchange(server.port, [large]).status == 200
    attack(server, range(WARM_UP))
    return segment(server)


def test_200_hostile_requests(server: Server) -> None:
    attack(server, range(200))


@pytest.mark.slow
def test_memory_returns_after_2000_hostile_requests(server: Server) -> None:
    labels = warm_up(server)
    before = idle_bytes(server)
    attack(server, range(WARM_UP, 2000))
    after = idle_bytes(server, before + MARGIN_BYTES)
    print(f"{before / 1e6:.0f} MB before, {after / 1e6:.0f} MB afterwards")
    assert after <= before + MARGIN_BYTES
    assert segment(server) == labels


@pytest.mark.slow
def test_memory_of_large_bodies_is_returned(server: Server) -> None:
    def refused(_: int) -> int:
        body = b"no image" * 3_750_000  # 30 MB
        return exchange(server.port, [post(SEGMENT, body, [OCTETS])]).status

    with ThreadPoolExecutor(6) as clients:
        assert set(clients.map(refused, range(6))) == {422}
    peak = server.resident_bytes()
    assert idle_bytes(server, peak - 60e6) <= peak - 60e6


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "a\0b", "http://127.0.0.1/x", "x" * 500, ""])
def test_names_of_files_do_not_matter(server: Server, name: str) -> None:
    assert segment(server, name) == segment(server, "a.png")


def test_clients_that_send_nothing_do_not_keep_others_waiting(server: Server) -> None:
    import socket

    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
    try:
        for number, connection in enumerate(idle):
            if number % 2:
                connection.sendall(post(SEGMENT, b"", [OCTETS], length="1000"))
        segment(server)
    finally:
        for connection in idle:
            connection.close()
