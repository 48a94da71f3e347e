"""A server with the part of S3's protocol that reading, writing and listing objects needs, in memory, on loopback."""

from __future__ import annotations

import hashlib
import io
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import BinaryIO
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

XML = '<?xml version="1.0" encoding="UTF-8"?>'
DATE = "Sun, 01 Nov 2026 00:00:00 GMT"


class S3Server(ThreadingHTTPServer):
    """Objects by `bucket/key`; `puts` counts how often each was written."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.puts: dict[str, int] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def put(self, name: str, content: bytes) -> None:
        with self.lock:
            self.objects[name] = content
            self.puts[name] = self.puts.get(name, 0) + 1


@contextmanager
def serving() -> Iterator[S3Server]:
    """Serve in a thread for the block."""
    server = S3Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: S3Server

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""

    def _split(self) -> tuple[str, str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        return bucket, key, parse_qs(parts.query, keep_blank_values=True)

    def _answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _missing(self) -> None:
        self._answer(404, f"{XML}<Error><Code>NoSuchKey</Code><Message>none</Message></Error>".encode())

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = _read_chunks(self.rfile)
        else:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            return _read_chunks(io.BytesIO(content))
        return content

    def do_HEAD(self) -> None:
        bucket, key, _ = self._split()
        content = self.server.objects.get(f"{bucket}/{key}")
        if not key:
            self._answer(200)
        elif content is None:
            self._answer(404)
        else:
            self._answer(200, Content_Length=str(len(content)), Last_Modified=DATE, ETag=_etag(content))

    def do_GET(self) -> None:
        bucket, key, query = self._split()
        if not key:
            self._list(bucket, query)
            return
        content = self.server.objects.get(f"{bucket}/{key}")
        if content is None:
            self._missing()
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self._answer(200, content, Last_Modified=DATE, ETag=_etag(content))
            return
        start, end = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
        covered = f"bytes {start}-{end}/{len(content)}"
        self._answer(206, content[start : end + 1], Content_Range=covered, Last_Modified=DATE, ETag=_etag(content))

    def _list(self, bucket: str, query: dict[str, list[str]]) -> None:
        prefix = query.get("prefix", [""])[0]
        delimiter = query.get("delimiter", [""])[0]
        encode = quote if "encoding-type" in query else str
        entries, folders = [], set()
        for name in sorted(self.server.objects):
            key = name.removeprefix(f"{bucket}/")
            if key == name or not key.startswith(prefix):
                continue
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if found:
                folders.add(prefix + head + delimiter)
                continue
            size = len(self.server.objects[name])
            entries.append(
                f"<Contents><Key>{escape(encode(key))}</Key><Size>{size}</Size>"
                "<LastModified>2026-11-01T00:00:00.000Z</LastModified><ETag>x</ETag></Contents>"
            )
        common = "".join(
            f"<CommonPrefixes><Prefix>{escape(encode(f))}</Prefix></CommonPrefixes>" for f in sorted(folders)
        )
        content = (
            f"{XML}<ListBucketResult><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{len(entries)}</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>"
            f"{''.join(entries)}{common}</ListBucketResult>"
        )
        self._answer(200, content.encode(), Content_Type="application/xml")

    def do_PUT(self) -> None:
        bucket, key, query = self._split()
        content = self._body()
        if "uploadId" in query:
            self.server.uploads[query["uploadId"][0]][int(query["partNumber"][0])] = content
        elif key:
            self.server.put(f"{bucket}/{key}", content)
        self._answer(200, ETag=_etag(content))

    def do_POST(self) -> None:
        bucket, key, query = self._split()
        self._body()
        if "uploads" in query:
            number = secrets.token_hex(8)
            self.server.uploads[number] = {}
            answer = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><UploadId>{number}</UploadId>"
            self._answer(200, f"{XML}<InitiateMultipartUploadResult>{answer}</InitiateMultipartUploadResult>".encode())
        else:
            parts = self.server.uploads.pop(query["uploadId"][0])
            self.server.put(f"{bucket}/{key}", b"".join(parts[number] for number in sorted(parts)))
            answer = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><ETag>x</ETag>"
            self._answer(200, f"{XML}<CompleteMultipartUploadResult>{answer}</CompleteMultipartUploadResult>".encode())

    def do_DELETE(self) -> None:
        bucket, key, query = self._split()
        if "uploadId" in query:
            self.server.uploads.pop(query["uploadId"][0], None)
        else:
            self.server.objects.pop(f"{bucket}/{key}", None)
        self._answer(204)


def _read_chunks(file: BinaryIO) -> bytes:
    """Read chunks up to the last one, which is empty, and what trails it; HTTP and S3 have the same format."""
    chunks = []
    while size := int(file.readline().partition(b";")[0], 16):
        chunks.append(file.read(size))
        file.readline()
    while file.readline().strip():
        pass
    return b"".join(chunks)


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'
