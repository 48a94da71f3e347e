"""Hostile requests to a real server: each is refused, nothing is kept in memory, and others are served as before."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.serve.hostile import KINDS, OCTETS, SEGMENT, Attack, form, make, picture
from tests.serve.server import Answer, Server, exchange, post, small_weights

CLIENTS = 8
"""The number of requests at the same time."""

WARM_UP = 150
"""After these, every kind of request was made several times, and memory that is used again and again is there."""

MARGIN_BYTES = 48 * 2**20
"""By how much memory may differ afterwards: requests of up to 33 MB are received several at a time."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with Server(["-w", small_weights(folder), "--client-timeout", "1.5"], folder / "log") as running:
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


def test_200_hostile_requests(server: Server) -> None:
    labels = segment(server)
    attack(server, range(WARM_UP))
    before = server.resident_bytes()
    attack(server, range(WARM_UP, 200))
    assert server.resident_bytes() < before + MARGIN_BYTES
    assert segment(server) == labels


@pytest.mark.slow
def test_2000_hostile_requests(server: Server) -> None:
    labels = segment(server)
    attack(server, range(WARM_UP))
    before = server.resident_bytes()
    attack(server, range(WARM_UP, 2000))
    assert server.resident_bytes() < before + MARGIN_BYTES
    assert segment(server) == labels


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
