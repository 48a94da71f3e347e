"""Choose the format of a result from the query, or from the header `Accept`."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

from atrous.inference.formats import FORMATS, FormatOptions
from atrous.inference.formats.raster import MAX_OVERLAY_SIDE
from atrous.inference.segmentation import Segmentation
from atrous.serve.limits import ServiceError

JPEG_QUALITY = 90


@dataclass(frozen=True)
class ResultFormat:
    """A format of results: its name in the query, media type, and `encode(segmentation, file_name, **options)`.

    `options` are those of `atrous.inference.formats.FormatOptions`.
    """

    name: str
    media_type: str
    description: str
    encode: Callable[..., bytes]
    needs_probabilities: bool = False


def _encode_overlay_jpeg(segmentation: Segmentation, file_name: str, **options: Any) -> bytes:
    shown = FormatOptions(**options)
    overlay = segmentation.shrink(MAX_OVERLAY_SIDE).overlay(opacity=shown.opacity, legend=shown.legend)
    content = io.BytesIO()
    Image.fromarray(overlay).save(content, "JPEG", quality=JPEG_QUALITY)
    return content.getvalue()


def _encode(name: str, segmentation: Segmentation, file_name: str, **options: Any) -> bytes:
    return FORMATS[name].encode(segmentation, file_name=file_name, **options)


RESULT_FORMATS = {
    each.name: ResultFormat(
        each.name, each.media_type, each.description, partial(_encode, each.name), each.needs_probabilities
    )
    for each in FORMATS.values()
}
"""The formats of results by name; the first is the default."""
RESULT_FORMATS["overlay_jpeg"] = ResultFormat(
    "overlay_jpeg", "image/jpeg", "classes painted over the image, as JPEG", _encode_overlay_jpeg
)


def choose_format(name: str | None, accept: str) -> ResultFormat:
    """Choose the format of that name, or else the first one that the header `Accept` prefers.

    Raises: `ServiceError` (not_acceptable).
    """
    if name is not None:
        return RESULT_FORMATS[name]
    offered = list(RESULT_FORMATS.values())
    ranges = _parse_accept(accept)
    if not ranges:
        return offered[0]
    best, quality = max(((each, _quality(each.media_type, ranges)) for each in offered), key=lambda pair: pair[1])
    if quality <= 0:
        types = ", ".join(dict.fromkeys(each.media_type for each in offered))
        raise ServiceError("not_acceptable", f"Accept: {accept:.100}: the media types of results are {types}.")
    return best


def _parse_accept(header: str) -> list[tuple[str, float]]:
    """Parse a header `Accept` into media ranges with their quality; parts that are not valid count as absent."""
    ranges = []
    for part in header.split(",")[:50]:
        media_range, *parameters = (text.strip() for text in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip().lower() == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        if "/" in media_range:
            ranges.append((media_range.lower(), quality))
    return ranges


def _quality(media_type: str, ranges: list[tuple[str, float]]) -> float:
    """Look up the quality of a media type: that of the most specific range that covers it."""
    kind = media_type.partition("/")[0]
    for candidate in (media_type, f"{kind}/*", "*/*"):
        matches = [quality for media_range, quality in ranges if media_range == candidate]
        if matches:
            return max(matches)
    return 0.0
