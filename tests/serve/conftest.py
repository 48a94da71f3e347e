"""A service with a small network, for tests of serving."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atrous.weights import save
from tests.inference.engines.examples import small_network
from tests.inference.networks import waves


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a small network."""
    return save(small_network(), tmp_path_factory.mktemp("weights") / "small.safetensors")


@pytest.fixture
def service(weights: Path) -> Iterator[Any]:
    """A service of the small network."""
    pytest.importorskip("fastapi")
    from atrous.serve import Service

    service = Service([str(weights)])
    yield service
    service.close()


@pytest.fixture
def png() -> bytes:
    """The content of a PNG file of 61 x 97 pixels (height, width)."""
    return encode(waves(61, 97))


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """Encode an image."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()
