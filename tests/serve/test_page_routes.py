"""The page's routes without a browser: what the viewer receives, and what of Gradio can be reached."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.inference.networks import waves
from tests.offline import run_offline

pytest.importorskip("gradio")
TestClient = pytest.importorskip("starlette.testclient").TestClient


def parse(body: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Split a body for the viewer, as panel.js does."""
    length = int.from_bytes(body[:4], "little")
    header, offset, parts = json.loads(body[4 : 4 + length]), 4 + length, {}
    for name, size in header["parts"]:
        parts[name] = body[offset : offset + size]
        offset += size
    assert offset == len(body)
    return header, parts


@pytest.fixture
def client(service: Any) -> Iterator[Any]:
    from atrous.serve import create_app
    from atrous.serve.page import mount_page

    app = create_app(service)
    mount_page(app, service)
    with TestClient(app) as client:
        yield client


def test_view_has_labels_probabilities_and_photograph(client: Any, service: Any, png: bytes) -> None:
    labels = client.post("/v1/segment?format=png", content=png).content
    response = client.post("/viewer/segment?photo=true", content=png)
    header, parts = parse(response.content)
    assert (header["height"], header["width"]) == (header["view_height"], header["view_width"]) == (61, 97)
    assert parts["png"] == labels
    shown = np.frombuffer(parts["labels"], np.uint8).reshape(61, 97)
    assert (shown == np.asarray(Image.open(io.BytesIO(labels)))).all()
    probability = np.frombuffer(parts["probability"], np.uint8)
    assert len(probability) == 61 * 97
    assert probability.min() >= 255 // len(header["classes"])  # the label is the most probable class
    assert Image.open(io.BytesIO(parts["photo"])).size == (97, 61)
    assert sum(header["fractions"]) == pytest.approx(1)
    assert "network;dur=" in response.headers["server-timing"]
    assert "photo" not in parse(client.post("/viewer/segment", content=png).content)[1]


def test_view_of_a_large_image_is_shrunk_and_its_labels_are_not() -> None:
    from atrous.inference.segmentation import Segmentation
    from atrous.serve.view import MAX_VIEW_SIDE, encode_view

    labels = np.zeros((30, 2 * MAX_VIEW_SIDE), np.uint8)
    labels[:, MAX_VIEW_SIDE:] = 1
    probabilities = np.stack([np.full(labels.shape, 0.2, np.float32), np.full(labels.shape, 0.8, np.float32)])
    image = waves(*labels.shape)
    result = Segmentation(image, labels, ("unlabeled", "road"), ((0, 0, 0), (128, 64, 128)), probabilities)
    header, parts = parse(encode_view(result))
    assert (header["view_height"], header["view_width"]) == (15, MAX_VIEW_SIDE)
    assert header["unpainted"] == ["unlabeled"]
    shown = np.frombuffer(parts["labels"], np.uint8).reshape(15, MAX_VIEW_SIDE)
    assert shown.mean() == 0.5
    probability = np.frombuffer(parts["probability"], np.uint8).reshape(shown.shape)
    assert (probability[shown == 0] == 51).all()
    assert (probability[shown == 1] == 204).all()
    assert (np.asarray(Image.open(io.BytesIO(parts["png"]))) == labels).all()


def test_image_too_large_for_probabilities_is_shown_without_them(weights: Path, png: bytes) -> None:
    from atrous.serve import Limits, Service, create_app
    from atrous.serve.page import mount_page

    service = Service([str(weights)], limits=Limits(probability_values=1000, pixels=61 * 97))
    app = create_app(service)
    mount_page(app, service)
    with TestClient(app) as client:
        assert set(parse(client.post("/viewer/segment", content=png).content)[1]) == {"labels", "png"}
        refined = client.post("/viewer/segment?crf=v2", content=png)
        assert (refined.status_code, refined.json()["code"]) == (413, "image_too_large")
        content = io.BytesIO()
        Image.new("RGB", (97, 62)).save(content, "PNG")
        larger = client.post("/viewer/segment", content=content.getvalue())
        assert (larger.status_code, larger.json()["code"]) == (413, "image_too_large")


def test_page_needs_the_token(service: Any) -> None:
    from atrous.serve import create_app
    from atrous.serve.page import mount_page

    app = create_app(service, token="secret")
    mount_page(app, service)
    with TestClient(app) as client:
        for path in ("/page/", "/viewer/viewer.js", "/viewer/street.jpg"):
            assert client.get(path).status_code == 401
            assert client.get(path, auth=("me", "secret")).status_code == 200
        assert client.post("/viewer/segment").status_code == 401


def test_gradio_only_shows_the_page(client: Any, tmp_path: Path) -> None:
    for path in ("/", "/page"):
        page = client.get(path, follow_redirects=True)
        assert (page.status_code, page.url.path) == (200, "/page/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for path in (
        f"gradio_api/file={secret}",
        "gradio_api/proxy=https://example.org/",
        "gradio_api/queue/data?session_hash=a",
        "gradio_api/info",
        "config",
        "monitoring",
        "assets/../config",
        "%2e%2e/config",
    ):
        assert client.get(f"/page/{path}").status_code == 404, path
    for path in ("upload", "queue/join", "run/predict", "vibe-edit"):
        assert client.post(f"/page/gradio_api/{path}", content=b"{}").status_code == 404, path
    assert client.get("/page/theme.css").status_code == 200


def test_api_description_leaves_the_page_out(client: Any) -> None:
    assert not [path for path in client.get("/openapi.json").json()["paths"] if "page" in path or "viewer" in path]


def test_page_opens_no_connection(weights: Path, tmp_path: Path) -> None:
    program = f"""
from starlette.testclient import TestClient
from atrous.serve import Service, create_app
from atrous.serve.page import mount_page

service = Service([{str(weights)!r}], engine="torch")
app = create_app(service)
mount_page(app, service)
with TestClient(app) as client:
    assert client.get("/page/").status_code == 200
"""
    run_offline(program, tmp_path)
