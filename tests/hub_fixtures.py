"""A hub on this machine, and a small network to put there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from atrous.card import Card, Measurement, Preprocessing
from atrous.imaging.labels import voc_color_map
from atrous.models import build_from_card
from atrous.weights import save
from tests.hub_server import Hub, serve_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that everything in this test talks to, without a token."""
    pytest.importorskip("huggingface_hub")
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "ATROUS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf_home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # its servers are not those of the hub
    with serve_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def hub_card() -> Card:
    return Card(
        model="deeplab_v3.mobilenet_v2",
        arguments={"width": 0.125},
        classes=("background", "cat | dog", "<b>tree</b>"),
        colors=voc_color_map(3),
        preprocessing=Preprocessing(resize="shorter_side", size=(65, 65)),
        license="Apache-2.0",
        trained_on="nothing",
        measured=(
            Measurement(
                name="mIoU", value=12.34, data="voc2012:VOC?split=val", command="atrous evaluate -w a | tee log"
            ),
            Measurement(name="pixel accuracy", value=50, data="elsewhere", published=True),
        ),
    )


@pytest.fixture
def weights_file(hub_card: Card, tmp_path: Path) -> Path:
    return save(build_from_card(hub_card).eval(), tmp_path / "saved" / "small.safetensors")
