"""A cluster of two workers, a server of objects, and runs of the same jobs without a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from atrous import create_model
from atrous.card import Card, Preprocessing
from atrous.scale import evaluate, jobs
from atrous.scale.cluster import Resources, connect
from atrous.scale.storage import open_storage
from atrous.weights import save
from tests.cli.conftest import photographs, weights  # noqa: F401
from tests.command_line import run  # noqa: F401
from tests.offline import skip_without
from tests.scale.s3_server import S3Server, serving


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cluster of this machine with two workers, which all tests of a module use."""
    skip_without("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATROUS_CACHE", str(tmp_path_factory.mktemp("cache")))  # of the workers
        with connect(None, Resources(workers=2)):
            yield


@pytest.fixture
def three_classes(tmp_path: Path) -> Path:
    """Weights for the three classes of the data set `own`."""
    torch.manual_seed(0)
    model = create_model("deeplab_v3.mobilenet_v2", width=0.125, num_classes=3)
    card = Card(
        model="deeplab_v3.mobilenet_v2",
        arguments={"width": 0.125},
        classes=("background", "road", "tree"),
        colors=((0, 0, 0), (255, 0, 0), (0, 255, 0)),
        preprocessing=Preprocessing(resize="squeeze", size=(33, 33)),
    )
    return save(model, tmp_path / "three.safetensors", card=card)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run jobs in this process, in batches of two, instead of on a cluster."""

    @contextmanager
    def connected(address: str | None, resources: Resources) -> Iterator[Resources]:
        yield Resources(1, 1, 0)

    def run_here(create: Callable[..., Any], arguments: dict[str, Any], items: Sequence[Any], _: Resources) -> Any:
        function = create(**arguments)
        for start in range(0, len(items), 2):
            batch = list(items[start : start + 2])
            yield batch, function(batch)

    for module in (jobs, evaluate):
        monkeypatch.setattr(module, "connect", connected)
        monkeypatch.setattr(module, "run_in_actors", run_here)
    monkeypatch.setattr("ray.nodes", list, raising=False)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server of objects that addresses such as s3://bucket/key lead to."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with serving() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server
    open_storage.cache_clear()  # which leads to this server
