"""Fetch images from the web, with limits on time and size, and never from a private network unless allowed."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import string
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from atrous.errors import AtrousError

MAX_BYTES = 256 * 2**20
"""The largest file that is fetched."""

MAX_SECONDS = 60.0
"""The time that a file may take, from the first connection to the last byte."""

MAX_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
CHUNK = 2**16


def is_url(text: str) -> bool:
    """Tell whether a text is the address of a file on the web, by http or https."""
    return text.lower().startswith(("http://", "https://"))


def fetch(
    url: str, *, allow_private: bool = False, max_bytes: int = MAX_BYTES, max_seconds: float = MAX_SECONDS
) -> bytes:
    """Fetch a file by http or https.

    Every address that a redirect leads to is checked as the first one is. A connection is made to the address that was
    checked, so that a second answer of the name server has no effect. Proxies are not used, for they would choose the
    address.

    Raises: `AtrousError` for other protocols, a server that does not answer with the file, a file that is larger than
    `max_bytes` or takes longer than `max_seconds`, and, unless `allow_private`, an address that is not public.
    """
    deadline = time.monotonic() + max_seconds
    current = url
    for _ in range(MAX_REDIRECTS + 1):
        with _responding(current, allow_private, deadline) as response:
            location = response.getheader("Location")
            if response.status in REDIRECTS and location:
                current = urljoin(current, location)
                continue
            if response.status != 200:
                raise AtrousError(f"{url}: the server answered {response.status} {response.reason}. Check the address.")
            return _read(response, url, max_bytes, deadline)
    raise AtrousError(f"{url}: more than {MAX_REDIRECTS} redirects. Give the address of the file itself.")


@contextmanager
def _responding(url: str, allow_private: bool, deadline: float) -> Iterator[http.client.HTTPResponse]:
    """Request a file; errors of the connection within the block become an `AtrousError`."""
    tunnel, timer = None, None
    try:
        parts = urlsplit(url)
        tunnel = _connect(url, parts, allow_private, deadline)
        # The limit of a socket is for each byte, and a slow server can send one at a time: this ends the connection.
        timer = threading.Timer(_remaining(url, deadline), tunnel.shutdown, [socket.SHUT_RDWR])
        timer.daemon = True
        timer.start()
        if isinstance(tunnel, ssl.SSLSocket):
            tunnel.do_handshake()
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port or _default_port(parts))
        connection.default_port = _default_port(parts)  # which the header `Host` leaves out
        connection.sock = tunnel
        path = quote(f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", safe=string.punctuation)
        connection.request("GET", path, headers={"User-Agent": "atrous", "Accept": "image/*", "Connection": "close"})
        yield connection.getresponse()
    except (OSError, http.client.HTTPException, ValueError) as error:
        _remaining(url, deadline)
        if isinstance(error, TimeoutError):
            raise _timeout_error(url) from error
        reason = str(error) or type(error).__name__
        raise AtrousError(f"{url}: cannot be fetched ({reason}). Check the address and the connection.") from error
    finally:
        if timer is not None:
            timer.cancel()
        if tunnel is not None:
            tunnel.close()


def _default_port(parts: SplitResult) -> int:
    """Return the port of the protocol."""
    return 443 if parts.scheme.lower() == "https" else 80


def _connect(url: str, parts: SplitResult, allow_private: bool, deadline: float) -> socket.socket:
    """Connect to a checked address of the host."""
    if parts.scheme.lower() not in ("http", "https"):
        raise AtrousError(f"{url}: files are fetched by http and https, not by {parts.scheme or 'this'}.")
    if not parts.hostname:
        raise AtrousError(f"{url}: the address names no host. Expected https://host/file.")
    port = parts.port or _default_port(parts)
    addresses = [str(answer[4][0]) for answer in socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)]
    for address in addresses:
        if not allow_private and not is_public(address):
            raise AtrousError(
                f"{url}: {parts.hostname} is at {address}, an address of a private network. If this is meant, allow it "
                "with --allow-private."
            )
    tunnel = _try_addresses(addresses, port, url, deadline)
    if parts.scheme.lower() == "http":
        return tunnel
    context = ssl.create_default_context()
    return context.wrap_socket(tunnel, server_hostname=parts.hostname, do_handshake_on_connect=False)


def _try_addresses(addresses: list[str], port: int, url: str, deadline: float) -> socket.socket:
    failure: OSError = OSError("the host has no address")
    for address in addresses:
        try:
            return socket.create_connection((address, port), _remaining(url, deadline))
        except OSError as error:  # noqa: PERF203  (few addresses)
            failure = error
    raise failure


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the public internet: not private, local, reserved or multicast."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or _translated(ip) or ip
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _translated(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Find the IPv4 address inside one of NAT64 (RFC 6052), by which an IPv6 network reaches it."""
    inside = ip in ipaddress.IPv6Network("64:ff9b::/96")
    return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if inside else None


def _read(response: http.client.HTTPResponse, url: str, max_bytes: int, deadline: float) -> bytes:
    too_large = AtrousError(f"{url}: the file is larger than {max_bytes / 2**20:.0f} MiB. Download it yourself.")
    length = response.length
    if length is not None and length > max_bytes:
        raise too_large
    content = bytearray()
    while chunk := response.read1(CHUNK):  # returns what has arrived, so that a slow server cannot outlast the limit
        content += chunk
        if len(content) > max_bytes:
            raise too_large
        _remaining(url, deadline)
    _remaining(url, deadline)
    if length is not None and len(content) < length:
        raise AtrousError(f"{url}: the connection ended after {len(content)} of {length} bytes. Try again.")
    return bytes(content)


def _remaining(url: str, deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise _timeout_error(url)
    return seconds


def _timeout_error(url: str) -> AtrousError:
    return AtrousError(f"{url}: the server takes too long. Try again, or download the file yourself.")
