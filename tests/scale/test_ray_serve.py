"""The API on Ray Serve gives the results of the segmenter."""

from __future__ import annotations

import io
import json
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous import AtrousError, Segmenter
from atrous.scale import deployment
from tests.offline import skip_without

skip_without("ray")
skip_without("fastapi")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"min_replicas": 3, "max_replicas": 2}, "3 to 2 replicas"), ({"target_requests": 0}, "above 0")],
)
def test_numbers_out_of_range(options, message: str) -> None:
    with pytest.raises(AtrousError, match=message):
        deployment("any", **options)


@pytest.fixture
def address(cluster: None, weights: Path) -> Iterator[str]:
    from ray import serve

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(deployment(f"tiny={weights}", max_replicas=2, num_cpus=0.5))
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


@pytest.mark.slow
def test_the_api_of_a_deployment(address: str, photographs: Path, weights: Path) -> None:
    image = photographs / "a.jpg"
    with urllib.request.urlopen(f"{address}/v1/models", timeout=60) as response:
        assert "tiny" in response.read().decode()
    request = urllib.request.Request(
        f"{address}/v1/segment?format=png", image.read_bytes(), {"Content-Type": "image/jpeg"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        labels = np.asarray(Image.open(io.BytesIO(response.read())))
    np.testing.assert_array_equal(labels, Segmenter.load(weights, device="cpu")(image).labels)
    with urllib.request.urlopen(f"{address}/openapi.json", timeout=60) as response:
        assert "/v1/segment" in json.load(response)["paths"]
