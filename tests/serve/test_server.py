"""`atrous serve` as a process: hostile clients, the disk, the token, and SIGTERM."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

pytest.importorskip("fastapi")

from tests.inference.networks import waves
from tests.pictures import bomb
from tests.serve.conftest import encode
from tests.serve.server import wait_for_handler

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX systems")

Start = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture(scope="module")
def start(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Return a function that starts `atrous serve` with options, and returns its process and its address."""
    processes = []

    def run(*options: str, **environment: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "atrous", "serve", "-w", str(weights), "--port", "0", "--no-page", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
        )
        processes.append(process)
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if match := re.search(r"(http://\S+)/healthz", line):
                return process, match[1]
        raise AssertionError("".join(lines))

    yield run
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(start: Start) -> tuple[int, str]:
    """The process id and the address of a server with small limits."""
    process, url = start(
        "--max-body-mb", "0.3", "--max-held-mb", "0.5", "--max-megapixels", "0.1", "--client-timeout", "1.5"
    )
    return process.pid, url


def talk(url: str, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Send pieces over a socket, and return everything that comes back until the server closes the connection."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        answer = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
            while chunk := connection.recv(65536):
                answer += chunk
        except (BrokenPipeError, ConnectionResetError):
            pass
        return answer


def head(*lines: str) -> bytes:
    return "\r\n".join(["POST /v1/segment HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_bodies_over_the_limit_are_refused_however_they_are_sent(server: tuple[int, str]) -> None:
    _, url = server
    answer = httpx.post(f"{url}/v1/segment", content=b"x" * 300_001)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    answer = httpx.post(f"{url}/v1/segment", content=iter([b"x" * 50_000] * 10))  # chunked
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    lie = talk(url, head("Content-Length: 99999999999"), b"x" * 1000)
    assert status(lie) == 413
    assert httpx.post(f"{url}/v1/segment", content=bomb(50_000, 50_000)).json()["code"] == "image_too_large"
    assert httpx.post(f"{url}/v1/segment", content=b"", headers={"Content-Encoding": "gzip"}).status_code == 415


def test_slow_and_broken_clients_are_cut_off(server: tuple[int, str]) -> None:
    _, url = server
    assert talk(url) == b""  # a connection that says nothing
    assert talk(url, *[b"G", b"E", b"T"] * 3, pause=0.3) == b""  # a header that never ends
    slow = talk(url, head("Content-Length: 1000"), b"x" * 10)
    assert (status(slow), b"slow_upload" in slow) == (408, True)
    assert status(talk(url, b"\x16\x03\x01 not HTTP\r\n\r\n")) == 400
    assert status(talk(url, head("X-Large: " + "x" * 100_000))) == 431
    assert status(talk(url, head("X-Large: " + "x" * 1_000_000))) in (400, 431)
    assert status(talk(url, head("Content-Length: 5", "Transfer-Encoding: chunked"), b"zzz\r\n")) == 400
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_a_client_that_does_not_read_is_cut_off(server: tuple[int, str]) -> None:
    _, url = server
    parts = urlsplit(url)
    body = encode(waves(300, 330))
    request = head(f"Content-Length: {len(body)}").replace(b"/v1/segment", b"/v1/segment?format=npz") + body
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((parts.hostname, parts.port))
        connection.sendall(request * 8)
        for _ in range(120):
            time.sleep(0.5)
            try:
                connection.sendall(b"x")
            except OSError:
                return
    raise AssertionError("the connection is still open")


def test_bodies_that_are_held_together_are_limited(server: tuple[int, str]) -> None:
    _, url = server
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as first:
        first.sendall(head("Content-Length: 299999") + b"x" * 280_000)
        deadline = time.monotonic() + 20
        while (answer := httpx.post(f"{url}/v1/segment", content=b"x" * 250_000)).status_code != 503:
            assert answer.status_code == 422  # the first one is on its way
            assert time.monotonic() < deadline
        assert (answer.json()["code"], answer.headers["Retry-After"]) == ("busy", "1")
        assert httpx.post(f"{url}/v1/segment", content=b"x" * 1000).status_code == 422  # there is room for this one
    while httpx.post(f"{url}/v1/segment", content=b"x" * 290_000).status_code == 503:
        assert time.monotonic() < deadline


def test_weights_whose_path_looks_like_markup(start: Start, weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "[" / "red]"
    folder.mkdir(parents=True)
    shutil.copy(weights, folder / "w[bold].safetensors")
    _, url = start("-w", f"street={folder / 'w[bold].safetensors'}")
    assert [model["id"] for model in httpx.get(f"{url}/v1/models").json()["models"]] == ["small", "street"]


def test_a_client_that_leaves_frees_its_place(start: Start) -> None:
    """Its request is given up, counted as 499, and those of others go on."""
    _, url = start("--max-queue", "1")
    parts = urlsplit(url)
    body = encode(waves(2000, 2000), "BMP")

    def canceled() -> bool:
        return 'code="499",route="/v1/segment"' in httpx.get(f"{url}/metrics", timeout=30).text

    deadline = time.monotonic() + 60
    while not canceled():
        with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
            connection.sendall(head(f"Content-Length: {len(body)}") + body)
        assert time.monotonic() < deadline
    while (code := httpx.post(f"{url}/v1/segment", content=encode(waves(61, 97))).status_code) == 429:
        assert time.monotonic() < deadline
    assert code == 200


def test_nothing_of_a_request_is_written_to_disk(start: Start, tmp_path: Path) -> None:
    process, url = start("--max-body-mb", "30", TMPDIR=str(tmp_path), PYTHONDONTWRITEBYTECODE="1")
    written: list[str] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            written.extend(map(str, tmp_path.iterdir()))
            for link in Path(f"/proc/{process.pid}/fd").glob("*"):
                try:
                    target = os.readlink(link)
                except OSError:
                    continue
                compiled = "__pycache__" in target  # by numba, which writes to a nameless file to try the folder
                if not compiled and (target.endswith("(deleted)") or target.startswith(str(tmp_path))):
                    written.append(target)
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    image = encode(waves(1000, 1500), "BMP")  # 4.5 MB, which other servers would spool to disk
    for options in ({"content": image}, {"files": {"image": ("/etc/passwd", image)}}):
        assert httpx.post(f"{url}/v1/segment?format=npz", timeout=60, **options).status_code == 200
    done.set()
    watcher.join()
    assert not written


def test_the_token(start: Start, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret-1\n")
    _, url = start("--token-file", str(token))
    for path in ("/v1/models", "/metrics", "/docs", "/openapi.json", "/nothing"):
        answer = httpx.get(url + path)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert httpx.get(url + path, headers={"Authorization": "Bearer secret-2"}).status_code == 401
        assert httpx.get(url + path, headers={"Authorization": "Basic !"}).status_code == 401
    assert httpx.get(f"{url}/healthz").status_code == httpx.get(f"{url}/readyz").status_code == 200
    assert httpx.get(f"{url}/v1/models", headers={"Authorization": "Bearer secret-1"}).status_code == 200
    assert httpx.get(f"{url}/docs", auth=("anyone", "secret-1")).status_code == 200


def test_sigterm_finishes_what_is_running(start: Start) -> None:
    process, url = start()
    body = encode(waves(700, 900))
    answers: list[Any] = []

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            while True:
                try:
                    answer = client.post(f"{url}/v1/segment", content=body)
                except httpx.ConnectError:
                    return
                answers.append(answer.status_code)
                if answer.status_code != 200:
                    assert json.loads(answer.content)["code"] == "stopping"
                    return

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(answers) < 4:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert set(answers) == {200, 503}
    assert process.wait(30) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_sigterm_while_the_server_starts_ends_it(weights: Path) -> None:
    """Also as the first process of a container, which ignores signals that it does not handle."""
    process = subprocess.Popen([sys.executable, "-m", "atrous", "serve", "-w", str(weights), "--port", "0"])
    wait_for_handler(process.pid)
    process.terminate()
    assert process.wait(60) == 143


def test_ctrl_c_ends_with_130_and_a_port_in_use_with_2(start: Start, weights: Path) -> None:
    process, url = start()
    port = str(urlsplit(url).port)
    second = subprocess.run(
        [sys.executable, "-m", "atrous", "serve", "-w", str(weights), "--port", port], capture_output=True, text=True
    )
    assert (second.returncode, "choose another --port" in second.stderr) == (2, True)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
