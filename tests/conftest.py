"""What all tests share: the folder of real data, and generators that always draw the same numbers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.data_fixtures", "tests.command_line", "tests.hub_fixtures"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell; tests press Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers share the cores

settings.register_profile(
    "atrous",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("atrous")


def find_shared_data() -> Path | None:
    """The folder of third-party images, masks and weights, which is never part of the repository."""
    given = os.environ.get("ATROUS_TEST_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = find_shared_data()
    if folder is None:
        pytest.skip("needs the folder of real data: set ATROUS_TEST_DATA")
    return folder


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def converted_networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of converted networks that tests share, because conversion takes a second or more."""
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(autouse=True)
def _no_surprises(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, converted_networks: Path
) -> None:
    """Tests read no weights of the person who runs them, and write nothing to their cache."""
    monkeypatch.delenv("ATROUS_WEIGHTS", raising=False)
    monkeypatch.setenv("ATROUS_MAX_PIXELS", "")  # restores it if the test changes it
    cache = tmp_path_factory.mktemp("cache")
    (cache / "engines").symlink_to(converted_networks, target_is_directory=True)
    monkeypatch.setenv("ATROUS_CACHE", str(cache))
