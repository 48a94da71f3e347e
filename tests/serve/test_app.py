"""The HTTP API: results, formats, and a reason for each refusal."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")

from starlette.testclient import TestClient

from atrous import Segmenter
from atrous.serve import create_app
from tests.inference.networks import waves


@pytest.fixture
def client(service: Any) -> TestClient:
    return TestClient(create_app(service))


def labels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_a_raw_body_and_a_form_give_the_labels_of_the_segmenter(client: TestClient, weights: Path, png: bytes) -> None:
    expected = Segmenter.load(weights)(waves(61, 97)).labels
    raw = client.post("/v1/segment", content=png)
    form = client.post("/v1/segment", files={"image": ("street.png", png)})
    assert raw.status_code == form.status_code == 200
    assert raw.headers["content-type"] == "image/png"
    assert np.array_equal(labels(raw.content), expected)
    assert raw.content == form.content
    stages = [part.split(";")[0] for part in raw.headers["server-timing"].split(", ")]
    assert stages == ["decode", "preprocess", "queue", "network", "argmax", "encode"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("weights=nothing", "unknown_model"),
        ("output_stride=7", "invalid_option"),
        ("tta=v5", "invalid_option"),
        ("crf=v9", "invalid_option"),
        ("sigma_alpha=3", "invalid_option"),
        ("crf=v2&sigma_alpha=0.01", "invalid_option"),
        ("crf=v2&crf_iterations=1000", "invalid_option"),
        ("format=doc", "invalid_option"),
        ("strides=8", "invalid_option"),
    ],
)
def test_options_that_are_unknown_or_out_of_range(client: TestClient, png: bytes, query: str, code: str) -> None:
    answer = client.post(f"/v1/segment?{query}", content=png)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code
    assert answer.status_code == answer.json()["status"] == (404 if code == "unknown_model" else 422)


@pytest.mark.parametrize("body", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_bodies_that_are_no_images(client: TestClient, body: bytes) -> None:
    answer = client.post("/v1/segment", content=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_image")


def test_models_health_and_metrics(client: TestClient, service: Any, png: bytes) -> None:
    client.post("/v1/segment", content=png)
    (model,) = client.get("/v1/models").json()["models"]
    assert model == client.get(f"/v1/models/{model['id']}").json()
    assert model["id"] == "small"
    assert client.get("/v1/models/other").status_code == 404
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    metrics = client.get("/metrics").text
    assert 'atrous_requests_total{code="200",route="/v1/segment"} 1.0' in metrics
    assert 'atrous_stage_seconds_count{stage="network"} 1.0' in metrics
    service.stop()
    assert client.get("/readyz").status_code == 503
    assert client.post("/v1/segment", content=png).json()["code"] == "stopping"


def test_an_internal_error_is_counted_as_it_is_answered(
    service: Any, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "segment", None)
    client = TestClient(create_app(service), raise_server_exceptions=False)
    answer = client.post("/v1/segment", content=png)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert 'atrous_requests_total{code="500",route="/v1/segment"} 1.0' in client.get("/metrics").text
