"""Requests that no well-meaning client sends: `make(number)` always returns the same one for the same number.

All have to be refused with 4xx; where HTTP itself is broken, the server may close the connection instead.
"""

from __future__ import annotations

import gzip
import io
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np
from PIL import Image

from tests.serve.server import post

SEGMENT = "/v1/segment"
OCTETS = ("Content-Type", "application/octet-stream")


@dataclass(frozen=True)
class Attack:
    """What is sent, in pieces; `broken`: it is not HTTP, so that the connection may be closed without an answer.

    `cut`: nothing follows, although more was announced; `pause`: the seconds between the pieces.
    """

    kind: str
    chunks: tuple[bytes, ...]
    broken: bool = False
    cut: bool = False
    pause: float = 0.0


def picture(suffix: str, seed: int, size: tuple[int, int] = (48, 40)) -> bytes:
    """Encode a picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, suffix)
    return buffer.getvalue()


def _body(body: bytes, content_type: str = "application/octet-stream") -> tuple[bytes, ...]:
    return (post(SEGMENT, body, [("Content-Type", content_type)]),)


def truncated_image(random: random.Random) -> Attack:
    suffix = random.choice(["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM"])
    content = picture(suffix, random.randrange(1000))
    return Attack(f"truncated {suffix}", _body(content[: random.randrange(1, len(content) * 8 // 10)]))


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, data: bytes, *before: bytes) -> bytes:
    """Write a PNG by hand, of any size that it claims."""
    header = _png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + _png_chunk(b"IDAT", data) + _png_chunk(b"IEND", b"")


ZEROS = zlib.compress(bytes(20_000_000))
GZIP_ZEROS = gzip.compress(bytes(30_000_000), 1)


def bomb(random: random.Random) -> Attack:
    side = random.choice([6_000, 30_000, 60_000, 65_535])
    text = _png_chunk(b"zTXt", b"Comment\0\0" + ZEROS)
    profile = _png_chunk(b"iCCP", b"p\0\0" + ZEROS)
    name, content = random.choice(
        [
            ("PNG of many pixels", png(side, side, ZEROS)),
            ("PNG of 2^31 pixels a side", png(2**31 - 1, 2**31 - 1, ZEROS)),
            ("PNG without data", png(5_000, 5_000, zlib.compress(b""))),
            ("PNG with a text of 20 MB, cut off", png(48, 40, b"", text)),
            ("PNG with a profile of 20 MB, cut off", png(48, 40, b"", profile)),
            ("GIF", b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6) + b",\0\0\0\0"
             + struct.pack("<HHB", side, side, 0) + b"\x02\x02\x4c\x01\0;"),
            ("BMP", b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)),
            ("JPEG", _jpeg_of(side)),
            ("TIFF", _tiff_of(side)),
            ("PPM", b"P6\n%d %d\n255\n" % (side, side)),
            ("PPM of 10^18 pixels", b"P6\n1000000000 1000000000\n255\n"),
            ("WebP", b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4)
             + (16382).to_bytes(3, "little") * 2),
        ]
    )  # fmt: skip
    return Attack(f"bomb: {name}", _body(content))


def _jpeg_of(side: int) -> bytes:
    content = bytearray(picture("JPEG", 0))
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = struct.pack(">HH", min(side, 65_500), min(side, 65_500))
    return bytes(content)


def _tiff_of(side: int) -> bytes:
    tags = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    tags += [(278, 4, side), (279, 4, min(side * side, 2**32 - 1))]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


def compressed(random: random.Random) -> Attack:
    encoding = random.choice(["gzip", "deflate", "br", "zstd", "gzip, gzip", "GZIP", "compress", "x" * 500])
    content = GZIP_ZEROS if random.random() < 0.1 else gzip.compress(picture("PNG", 1))
    return Attack("compressed body", (post(SEGMENT, content, [OCTETS, ("Content-Encoding", encoding)]),))


def no_image(random: random.Random) -> Attack:
    name, content = random.choice(
        [
            ("nothing", b""),
            ("null bytes", bytes(random.choice([1, 1000, 1_000_000]))),
            ("random bytes", random.randbytes(random.choice([1, 16, 1000, 100_000]))),
            ("text", b"Ceci n'est pas une image.\n" * 100),
            ("JSON", b'{"image": "' + b"A" * 1000 + b'"}'),
            ("nested JSON", b"[" * 100_000),
            ("HTML", b"<!doctype html><img src=file:///etc/passwd>"),
            ("SVG", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'),
            ("XML with entities", b'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><x>&b;</x>'),
            ("path", b"/etc/passwd"),
            ("address", b"http://169.254.169.254/latest/meta-data/"),
            ("data address", b"data:image/png;base64,iVBORw0KGgo="),
            ("PDF", b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>"),
            ("EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n"),
            ("ZIP", b"PK\x03\x04" + bytes(100)),
            ("gzip", GZIP_ZEROS),
            ("pickle", b"cos\nsystem\n(S'true'\ntR."),
            ("NumPy", b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n"),
            ("signature of a PNG alone", b"\x89PNG\r\n\x1a\n"),
            ("signature of a JPEG alone", b"\xff\xd8\xff\xe0"),
            ("signature of a TIFF alone", b"II*\0\xff\xff\xff\xff"),
            ("TIFF that points to itself", b"II*\0" + struct.pack("<IHHHIII", 8, 1, 256, 4, 2**31, 8, 8)),
            ("PNG of no pixels", png(0, 0, zlib.compress(b""))),
        ]
    )  # fmt: skip
    kind = random.choice(["application/octet-stream", "image/png", "text/html", "application/json", "", "/", "a/b;c"])
    return Attack(f"no image: {name}", _body(content, kind))


def form(content: bytes, *, name: str = "image", file_name: str = "a.png", boundary: str = "cut") -> bytes:
    """Write a form with one file."""
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{file_name}"\r\n\r\n'
    return head.encode("utf-8", "surrogateescape") + content + f"\r\n--{boundary}--\r\n".encode()


PATHS = (
    "../../../etc/passwd",
    "/etc/passwd",
    "C:\\x\\..\\y",
    "a\0b.png",
    "a" * 100_000,
    "%2e%2e%2f",
    "http://x/y",
    "",
    ".",
)


def broken_form(random: random.Random) -> Attack:
    image, kind = picture("PNG", 3), "multipart/form-data; boundary=cut"
    whole = form(image)
    part = b'--cut\r\nContent-Disposition: form-data; name="%s"\r\n\r\nx\r\n'
    name, body, content_type = random.choice(
        [
            ("cut off", whole[: random.randrange(len(whole) - 10)], kind),
            ("another boundary", whole, "multipart/form-data; boundary=other"),
            ("no boundary", whole, "multipart/form-data"),
            ("an empty boundary", whole, "multipart/form-data; boundary="),
            ("a long boundary", whole, "multipart/form-data; boundary=" + "b" * 5_000),
            ("another field", form(image, name=random.choice(["file", "", "image\0", "../image", "IMAGE"])), kind),
            ("no field", b"--cut--\r\n", kind),
            ("two images", whole.replace(b"\r\n--cut--\r\n", b"\r\n") + whole, kind),
            ("10,000 fields", part % b"x" * 10_000 + b"--cut--\r\n", kind),
            ("a field without headers", b"--cut\r\n\r\n" + image + b"\r\n--cut--\r\n", kind),
            ("a header without colon", b"--cut\r\nnonsense\r\n\r\n" + image + b"\r\n--cut--\r\n", kind),
            ("a header of 1 MB", b"--cut\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n" + image + b"\r\n--cut--\r\n", kind),
            ("100,000 headers", b"--cut\r\n" + b"X: x\r\n" * 100_000 + b"\r\n" + image + b"\r\n--cut--\r\n", kind),
            ("no image", form(random.randbytes(100)), kind),
            ("a form in a form", form(form(image, boundary="inner")), kind),
            ("another kind", whole, f"multipart/{random.choice(['mixed', 'related'])}; boundary=cut"),
            ("a name that is a path", form(b"no image", file_name=random.choice(PATHS)), kind),
            ("fields by address", b"image=%2Fetc%2Fpasswd", "application/x-www-form-urlencoded"),
            ("a path for an image", part % b"image" + b"--cut--\r\n", kind),
        ]
    )  # fmt: skip
    return Attack(f"form: {name}", _body(body, content_type))


def odd_parameter(random: random.Random) -> Attack:
    name = random.choice(["weights", "output_stride", "tta", "crf", "format", "image", "url", "path", "__class__"])
    value = random.choice(
        ["\0", "a\0b", "../../etc/passwd", "/etc/passwd", "http://127.0.0.1:22/", "hf://user/name", "file:///etc/passwd",
         "-1", "1e999", "NaN", "9" * 400, "0x10", "{}", "[]", "None", "'; --", "${jndi:ldap://x}", "{{7*7}}", "\u202e",
         "x" * 10_000, "a\r\nSet-Cookie: b=c", "%"]
    )  # fmt: skip
    text = quote(value) if random.random() < 0.8 else "%ff%fe%00" + quote(value)
    return Attack(f"parameter {name}", (post(f"{SEGMENT}?{name}={text}", picture("PNG", 4), [OCTETS]),))


def odd_path(random: random.Random) -> Attack:
    path = random.choice(
        ["/v1/models/../../../etc/passwd", "/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/v1/models/%00",
         "//etc/passwd", "/v1/models/" + "x" * 5_000, "/v1/segment/", "/v1/segment/..%2f..", "/v2/segment", "/%ff%fe",
         "/static/../app.py", "/.git/config", "/.env", "/admin", "/v1/models/hf:%2f%2fa%2fb", "/v1/models/a%0d%0ab"]
    )  # fmt: skip
    method = random.choice(["GET", "PUT", "DELETE", "PATCH", "PROPFIND", "TRACE"])
    return Attack("path", (f"{method} {path} HTTP/1.1\r\nHost: atrous\r\n\r\n".encode("latin-1"),), broken=True)


def huge_header(random: random.Random) -> Attack:
    size = random.choice([70_000, 200_000, 1_000_000])
    headers = random.choice(
        [
            [("X-Large", "x" * size)],
            [(f"X-{number}", "x" * 50) for number in range(size // 50)],
            [("x" * size, "y")],
            [("Cookie", "a=b; " * (size // 5))],
            [("Accept", "image/*;q=0.1," * (size // 14))],
        ]
    )
    request = post(SEGMENT, b"no image", [OCTETS, *headers])
    if random.random() < 0.2:
        request = b"POST /" + b"x" * size + b" HTTP/1.1\r\nHost: atrous\r\nContent-Length: 0\r\n\r\n"
    return Attack("huge header", (request,), broken=True)


def odd_header(random: random.Random) -> Attack:
    name, value = random.choice(
        [("Accept", "text/html;q=0"), ("Accept", "video/mp4"), ("Accept", "image/png;q=nan"), ("Accept", ";;;,,,"),
         ("Range", "bytes=0-"), ("Expect", "nonsense"), ("Upgrade", "h2c"), ("Connection", "Upgrade, HTTP2-Settings"),
         ("Authorization", "Bearer " + "\xff" * 100), ("Authorization", "Basic ####"), ("Host", "evil/../\\"),
         ("X-Forwarded-For", "' or 1=1"), ("Content-Type", "\xff\xfe"), ("Content-Type", "image/png; " * 1000)]
    )  # fmt: skip
    return Attack(f"header {name}", (post(SEGMENT, b"no image", [(name, value)]),), broken=True)


def wrong_length(random: random.Random) -> Attack:
    content = picture("PNG", 5)
    length = random.choice(
        ["-1", "abc", "0x10", "1e3", "+5", "5, 6", " ", "9" * 30, str(2**63), "100000000000", "\xb2"]
    )
    if random.random() < 0.4:
        length = str(len(content) + random.choice([1, 1000, 20_000_000]))
        return Attack("more was announced", (post(SEGMENT, content, [OCTETS], length=length),), broken=True, cut=True)
    if random.random() < 0.3:
        extra = [OCTETS, ("Transfer-Encoding", random.choice(["chunked", "identity", "gzip, chunked", "xchunked"]))]
        return Attack("length and chunks", (post(SEGMENT, b"no image", extra),), broken=True, cut=True)
    return Attack("length that is no number", (post(SEGMENT, content, [OCTETS], length=length),), broken=True, cut=True)


def broken_chunks(random: random.Random) -> Attack:
    head = post(SEGMENT, b"", [OCTETS, ("Transfer-Encoding", "chunked")], length="")
    body = random.choice(
        [b"zz\r\nabc\r\n0\r\n\r\n", b"5\r\nab", b"-5\r\nabcde\r\n0\r\n\r\n", b"ffffffffffffffff\r\nabc",
         b"3\r\nabcdef\r\n", b"3;" + b"x" * 100_000 + b"\r\nabc\r\n0\r\n\r\n", b"8\r\nno image\r\n0\r\n\r\n",
         b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n",
         b"8\r\nno image\r\n0\r\n" + b"X: x\r\n" * 5_000 + b"\r\n", b"\0\0\0\0", b"0" * 100_000 + b"\r\n\r\n"]
    )  # fmt: skip
    return Attack("chunks", (head, body), broken=True, cut=True)


def no_http(random: random.Random) -> Attack:
    content = random.choice(
        [b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(200), b"GET\r\n\r\n", b"\r\n" * 1000, b"\0" * 10_000,
         b"GET /x HTTP/9.9\r\n\r\n", b"GET /x HTTP/0.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"SSH-2.0-x\r\n",
         b"", b"POST /v1/segment\r\n\r\n", b"GET  /healthz  HTTP/1.1\r\n\r\n",
         b"GET /x HTTP/1.1\r\nBad Header: x\r\n\r\n", b"GET /x HTTP/1.1\r\n: x\r\n\r\n",
         b"GET /x HTTP/1.1\r\nX: a\0b\r\n\r\n", random.randbytes(500),
         b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET http://[::1/ HTTP/1.1\r\nHost: x\r\n\r\n"]
    )  # fmt: skip
    return Attack("no HTTP", (content,), broken=True, cut=True)


def slow_body(random: random.Random) -> Attack:
    """Send a byte now and then, or nothing more: the server runs out of patience."""
    request = post(SEGMENT, b"", [OCTETS], length=str(random.choice([1000, 20_000_000])))
    return Attack("slow body", (request, *([b"x"] * random.choice([1, 4]))), broken=True, pause=0.2)


def too_large(random: random.Random) -> Attack:
    """Send more than the limit, with or without saying so before."""
    block = random.randbytes(65_536)
    if random.random() < 0.5:
        return Attack("too large", (post(SEGMENT, b"", [OCTETS], length="50000000"), *[block] * 700), broken=True)
    head = post(SEGMENT, b"", [OCTETS, ("Transfer-Encoding", "chunked")], length="")
    return Attack("too large, in chunks", (head, *[b"10000\r\n" + block + b"\r\n"] * 700), broken=True)


KINDS: dict[Callable[[random.Random], Attack], int] = {
    truncated_image: 20, bomb: 20, no_image: 15, broken_form: 20, odd_parameter: 15, odd_path: 8, huge_header: 5,
    odd_header: 6, compressed: 4, wrong_length: 8, broken_chunks: 8, no_http: 8, slow_body: 1, too_large: 1,
}  # fmt: skip
"""The kinds of requests, and how often each is made."""


def make(number: int) -> Attack:
    """Make a hostile request; the first ones are one of each kind."""
    generator = random.Random(number)
    kinds = list(KINDS)
    kind = kinds[number] if number < len(kinds) else generator.choices(kinds, list(KINDS.values()))[0]
    return kind(generator)
