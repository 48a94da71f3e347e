"""A server in a process of its own, as users start it, and raw connections to it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

START_SECONDS = 120


class Server:
    """`atrous serve` on a free port of the loopback device, until the end of a `with` block.

    Attributes: `port`; `process`; `log`, the file of what it prints.
    """

    def __init__(self, arguments: Iterable[str | Path], log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        command = [sys.executable, "-m", "atrous", "serve", "--port", str(self.port), *map(str, arguments)]
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + START_SECONDS
        while not self.is_ready():
            assert self.process.poll() is None, f"the server has stopped:\n{self.log.read_text()}"
            assert time.monotonic() < end, f"the server does not answer:\n{self.log.read_text()}"
            time.sleep(0.1)

    def is_ready(self) -> bool:
        """Tell whether the server takes requests."""
        try:
            with urlopen(f"{self.url}/readyz", timeout=5):
                return True
        except OSError:
            return False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def resident_bytes(self) -> int:
        """Read the memory of the process from /proc."""
        (kilobytes,) = re.findall(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text(), re.M)
        return int(kilobytes) * 1024

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Answer(NamedTuple):
    """The answer to what was sent over a connection: the status, 0 if it was closed without one, and the body."""

    status: int
    headers: dict[str, str]
    body: bytes


def exchange(
    port: int, chunks: Sequence[bytes], *, cut: bool = False, pause: float = 0.0, timeout: float = 60.0
) -> Answer:
    """Send bytes over a connection of its own, and read the first answer until its end; `cut` sends nothing more.

    A server may answer and close before it has read everything: sending then ends, and its answer is read.
    """
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        sender = threading.Thread(target=_send, args=(connection, chunks, cut, pause), daemon=True)
        sender.start()
        try:
            return _receive(connection)
        finally:
            sender.join()


def _send(connection: socket.socket, chunks: Sequence[bytes], cut: bool, pause: float) -> None:
    try:
        for number, chunk in enumerate(chunks):
            if number:
                time.sleep(pause)
            connection.sendall(chunk)
        if cut:
            connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def _receive(connection: socket.socket) -> Answer:
    received = b""
    try:
        while True:
            head, separator, body = received.partition(b"\r\n\r\n")
            if separator:
                status, headers = _parse(head)
                length = headers.get("content-length")
                if length is not None and len(body) >= int(length):
                    return Answer(status, headers, body[: int(length)])
            block = connection.recv(1 << 16)
            if not block:
                break
            received += block
    except ConnectionResetError:
        pass
    head, separator, body = received.partition(b"\r\n\r\n")
    return Answer(*_parse(head), body) if separator else Answer(0, {}, received)


def _parse(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split(" ")[1]), headers


def post(path: str, body: bytes = b"", headers: Iterable[tuple[str, str]] = (), *, length: str | None = None) -> bytes:
    """Write a POST request; `length` replaces the length of the body in its header."""
    lines = [f"POST {path} HTTP/1.1", "Host: atrous"]
    lines += [f"{name}: {value}" for name, value in headers]
    if length != "":
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def wait_for_handler(pid: int) -> None:
    """Wait until a process handles SIGTERM, on Linux."""
    deadline = time.monotonic() + 60
    while True:
        status = Path(f"/proc/{pid}/status").read_text()
        (caught,) = re.findall(r"SigCgt:\s*([0-9a-f]+)", status)
        if int(caught, 16) >> (signal.SIGTERM - 1) & 1:
            return
        assert time.monotonic() < deadline
        time.sleep(0.01)
