"""The image of a request: from a form or as it is, and what is refused."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi")

from atrous.serve.limits import ServiceError
from atrous.serve.upload import Upload, parse_upload

FORM = "multipart/form-data; boundary=x"


def part(content: bytes, disposition: str = 'form-data; name="image"; filename="a.png"') -> bytes:
    return b"--x\r\nContent-Disposition: " + disposition.encode() + b"\r\n\r\n" + content + b"\r\n"


@pytest.mark.parametrize(
    "content_type", ["", "image/png", "application/octet-stream", "application/x-www-form-urlencoded"]
)
def test_a_body_that_is_no_form_is_the_image(content_type: str) -> None:
    assert parse_upload(b"--x", content_type) == Upload(b"--x", "image")


@pytest.mark.parametrize(
    ("file_name", "expected"),
    [("a.png", "a.png"), ("../../etc/passwd", "passwd"), ("C:\\photos\\a.png", "a.png"), ("", "image")],
)
def test_the_field_of_a_form(file_name: str, expected: str) -> None:
    content = b"\x00\r\n--y\r\n" * 1000
    disposition = f'form-data; name="image"; filename="{file_name}"'
    assert parse_upload(part(content, disposition) + b"--x--\r\n", FORM) == Upload(content, expected)


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (b"", FORM, "invalid_request"),
        (b"--x--\r\n", FORM, "invalid_request"),
        (part(b"1"), FORM, "invalid_request"),  # cut off
        (part(b"1") + part(b"2") + b"--x--\r\n", FORM, "invalid_request"),
        (part(b"1", 'form-data; name="photo"') + b"--x--\r\n", FORM, "invalid_request"),
        (part(b"1", "form-data") + b"--x--\r\n", FORM, "invalid_request"),
        (part(b"1") + b"--x--\r\n", "multipart/form-data", "invalid_request"),
        (part(b"1") + b"--x--\r\n", "multipart/form-data; boundary=y", "invalid_request"),
        (b"\xff" * 100, FORM, "invalid_request"),
        (part(b"1") + b"--x--\r\n", "multipart/mixed; boundary=x", "unsupported_media_type"),
    ],
)
def test_forms_that_are_refused(body: bytes, content_type: str, code: str) -> None:
    with pytest.raises(ServiceError) as error:
        parse_upload(body, content_type)
    assert error.value.code == code
