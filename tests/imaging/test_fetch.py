"""Images from the web: limits of size and time, redirects, and no private address unless it is allowed."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from atrous import AtrousError
from atrous.imaging import fetch as module
from atrous.imaging.fetch import fetch, is_public, is_url


class Handler(BaseHTTPRequestHandler):
    """Answer by the path: files, redirects, errors, and servers that do not end."""

    def do_GET(self) -> None:
        kind, _, rest = self.path.lstrip("/").partition("/")
        if kind == "redirect":
            self.send_response(302)
            self.send_header("Location", rest if "://" in rest else f"/{rest}")
            self.end_headers()
        elif kind == "file":
            self._send(self.path.encode())
        elif kind == "large":
            self._send(b"x" * 5000)
        elif kind == "endless":
            self.send_response(200)
            self.end_headers()
            while not self._write(b"x" * 1000):
                pass
        elif kind == "slow":
            self.send_response(200)
            self.end_headers()
            while not self._write(b"x"):
                time.sleep(0.05)
        elif kind == "slowheaders":
            while not self._write(b"x"):
                time.sleep(0.05)
        elif kind == "short":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"short")
        else:
            self.send_error(404)

    def _send(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _write(self, content: bytes) -> bool:
        """Write, and tell whether the client has gone."""
        try:
            self.wfile.write(content)
        except OSError:
            return True
        return False

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


def test_addresses_are_told_from_files() -> None:
    assert is_url("http://a/b.jpg")
    assert is_url("HTTPS://a/b.jpg")
    assert not any(map(is_url, ("a.jpg", "C:/a.jpg", "file:///etc/passwd", "ftp://a/b.jpg", "http:/a", "")))


def test_a_file_is_fetched_with_redirects_and_odd_names(server: str) -> None:
    assert fetch(f"{server}/file/a", allow_private=True) == b"/file/a"
    assert fetch(f"{server}/redirect/redirect/file/a?b=c", allow_private=True) == b"/file/a?b=c"
    assert fetch(f"{server}/file/Straße 1.jpg", allow_private=True) == b"/file/Stra%C3%9Fe%201.jpg"
    assert fetch(f"{server}/file/%20a", allow_private=True) == b"/file/%20a"


def test_private_addresses_are_refused(server: str) -> None:
    with pytest.raises(AtrousError, match=r"127\.0\.0\.1 is at 127\.0\.0\.1, .*--allow-private"):
        fetch(f"{server}/file/a")
    for host in ("localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "169.254.169.254"):
        with pytest.raises(AtrousError, match=r"private network"):
            fetch(f"http://{host}/a")


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "172.16.3.4", "192.168.0.1", "127.1.2.3", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:10.0.0.1",
     "64:ff9b::a00:1", "2002:a00:1::", "2001:db8::1"],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


def test_answers_of_the_name_server_are_checked(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["93.184.215.14", "10.0.0.7"]
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, port, **_: [(0, 0, 0, "", (address, port)) for address in answers]
    )
    connected: list[object] = []
    monkeypatch.setattr(socket, "create_connection", lambda *arguments: connected.append(arguments))
    with pytest.raises(AtrousError, match=r"example\.org is at 10\.0\.0\.7"):
        fetch("http://example.org/a.jpg")
    assert not connected


def test_redirects_are_checked_and_addresses_resolved_once(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(server.rpartition(":")[2])
    asked: list[str] = []
    original = socket.create_connection

    def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(0, 0, 0, "", ("93.184.215.14" if host == "example.org" else "127.0.0.1", port))]

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        assert address == ("93.184.215.14", port)  # the address that was checked, not the name
        monkeypatch.setattr(socket, "getaddrinfo", real)
        connection = original(("127.0.0.1", port), timeout)
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        return connection

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    assert fetch(f"http://example.org:{port}/file/a") == b"/file/a"
    assert asked == ["example.org"]
    with pytest.raises(AtrousError, match=r"intern is at 127\.0\.0\.1"):
        fetch(f"http://example.org:{port}/redirect/http://intern:{port}/file/a")
    with pytest.raises(AtrousError, match=r"by http and https, not by file"):
        fetch(f"http://example.org:{port}/redirect/file:///etc/passwd")


def test_limits_of_size(server: str) -> None:
    for kind in ("large", "endless"):
        with pytest.raises(AtrousError, match=rf"{kind}: the file is larger than"):
            fetch(f"{server}/{kind}", allow_private=True, max_bytes=4096)


@pytest.mark.parametrize("kind", ["slow", "slowheaders"])
def test_limits_of_time(server: str, kind: str) -> None:
    with pytest.raises(AtrousError, match=rf"{kind}: the server takes too long"):
        fetch(f"{server}/{kind}", allow_private=True, max_seconds=0.5)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", "answered 404 Not Found"),
        ("short", "ended after 5 of 100 bytes"),
        ("/".join(["redirect"] * 7) + "/file", "more than 5 redirects"),
    ],
)
def test_failures_name_the_address(server: str, path: str, message: str) -> None:
    with pytest.raises(AtrousError, match=message) as caught:
        fetch(f"{server}/{path}", allow_private=True)
    assert str(caught.value).startswith(server)


def test_addresses_without_a_server(server: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/a", server.replace("http", "https"), "http://127.0.0.1:99999/a"):
        with pytest.raises(AtrousError, match="cannot be fetched") as caught:
            fetch(url, allow_private=True)
        assert "\n" not in str(caught.value)
    with pytest.raises(AtrousError, match="names no host"):
        fetch("http:///a")


def test_the_limit_is_that_of_the_module() -> None:
    assert module.MAX_BYTES == 256 * 2**20
    assert module.MAX_SECONDS == 60
