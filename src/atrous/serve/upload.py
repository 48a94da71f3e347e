"""Read the image of a request, within limits of size and time, and in memory alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from atrous.console import printable
from atrous.serve.limits import Limits, ServiceError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

IMAGE_FIELD = "image"
"""The field of a form that holds the image."""


class Upload(NamedTuple):
    """An uploaded image: the bytes of its file, and the name that the client gave it, which is never opened."""

    content: bytes
    file_name: str = "image"


async def read_body(request: Request, limits: Limits, count: Callable[[int], None]) -> bytes:
    """Read the body of a request; `count` is told the sizes of its pieces.

    Raises: `ServiceError` (body_too_large, slow_upload, unsupported_media_type), and what `count` raises; starlette's
    `ClientDisconnect`.
    """
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise ServiceError(
            "unsupported_media_type", f"The body is compressed ('{encoding:.50}'): send the image as it is."
        )
    too_large = ServiceError(
        "body_too_large",
        f"The body exceeds {limits.body_bytes / 1e6:.3g} MB: send the image as JPEG, or a smaller one.",
    )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.body_bytes:
        raise too_large
    try:
        return await asyncio.wait_for(_receive(request, limits.body_bytes, too_large, count), limits.client_seconds)
    except (asyncio.TimeoutError, TimeoutError):
        raise ServiceError("slow_upload", f"The body did not arrive within {limits.client_seconds:g} s.") from None


async def _receive(request: Request, limit: int, too_large: ServiceError, count: Callable[[int], None]) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise too_large
        count(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


def parse_upload(body: bytes, content_type: str) -> Upload:
    """Find the image in a body: the field `image` of a form, or the body itself.

    Raises: `ServiceError` (invalid_request, unsupported_media_type).
    """
    media_type, parameters = parse_options_header(content_type)
    if not media_type.startswith(b"multipart/"):
        return Upload(body)
    if media_type != b"multipart/form-data":
        raise ServiceError(
            "unsupported_media_type",
            f"'{media_type.decode('latin-1'):.50}': send a form as multipart/form-data, or the image itself.",
        )
    boundary = parameters.get(b"boundary", b"")
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise ServiceError("invalid_request", f"The form is damaged ({error}): send it again.") from error
    if not form.is_complete:
        raise ServiceError("invalid_request", "The form is cut off: send it again.")
    return form.image()


class _Form:
    """The callbacks of the parser of forms, which keep the parts in memory."""

    def __init__(self) -> None:
        self.is_complete = False
        self._parts: list[Upload] = []
        self._names: list[str] = []
        self._headers: dict[bytes, bytes] = {}
        self._field, self._value, self._data = bytearray(), bytearray(), bytearray()

    def callbacks(self) -> MultipartCallbacks:
        """Return the callbacks by the names of the parser."""

        def append(target: str) -> Callable[[bytes, int, int], None]:
            return lambda data, start, end: getattr(self, target).extend(memoryview(data)[start:end])

        return {
            "on_part_begin": self._begin,
            "on_part_data": append("_data"),
            "on_part_end": self._end,
            "on_header_field": append("_field"),
            "on_header_value": append("_value"),
            "on_header_end": self._end_header,
            "on_end": self._finish,
        }

    def image(self) -> Upload:
        """Return the part named `image`.

        Raises: `ServiceError` (invalid_request).
        """
        others = [name for name in self._names if name != IMAGE_FIELD]
        if others or len(self._parts) != 1:
            fields = ", ".join(f"'{name:.50}'" for name in self._names[:5]) or "nothing"
            raise ServiceError(
                "invalid_request", f"The form has {fields}; one field is expected, '{IMAGE_FIELD}', with the file."
            )
        return self._parts[0]

    def _begin(self) -> None:
        self._headers.clear()
        self._data = bytearray()

    def _end_header(self) -> None:
        self._headers[bytes(self._field).lower()] = bytes(self._value)
        self._field, self._value = bytearray(), bytearray()

    def _end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._names.append(options.get(b"name", b"").decode("utf-8", "replace"))
        file_name = options.get(b"filename", b"").decode("utf-8", "replace").replace("\\", "/").rsplit("/", 1)[-1]
        self._parts.append(Upload(bytes(self._data), printable(file_name)[:255] or "image"))

    def _finish(self) -> None:
        self.is_complete = True
