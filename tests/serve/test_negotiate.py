"""The format of a result, by the query or the header `Accept`."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi")

from atrous.serve.limits import ServiceError
from atrous.serve.negotiate import choose_format


@pytest.mark.parametrize(
    ("name", "accept", "expected"),
    [
        (None, "", "png"),
        (None, "*/*", "png"),
        (None, "image/*", "png"),
        (None, "image/jpeg", "overlay_jpeg"),
        (None, "image/jpeg, image/png;q=0.5", "overlay_jpeg"),
        (None, "image/jpeg;q=0.5, image/png", "png"),
        (None, "text/html, */*;q=0.1", "png"),
        (None, "application/json", "coco"),
        (None, "application/geo+json", "geojson"),
        (None, "APPLICATION/X-NPZ; q=1", "npz"),
        (None, "image/png;q=0, */*", "npz"),
        ("labelme", "image/png", "labelme"),
    ],
)
def test_formats(name: str | None, accept: str, expected: str) -> None:
    assert choose_format(name, accept).name == expected


@pytest.mark.parametrize("accept", ["text/html", "image/png;q=0", "application/json;q=abc", "image/gif, video/*"])
def test_none_that_is_offered(accept: str) -> None:
    with pytest.raises(ServiceError) as error:
        choose_format(None, accept)
    assert error.value.code == "not_acceptable"
