"""Commands on a real cluster of two workers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from atrous.scale.cluster import Resources
from atrous.scale.ray_data import run_in_actors
from tests.command_line import Run
from tests.offline import skip_without
from tests.scale.test_predict import contents

skip_without("ray")
pytestmark = pytest.mark.usefixtures("cluster")


class Doubler:
    """Double numbers; as often as the file `deaths` says, the process dies of 13, and of 7 always."""

    def __init__(self, deaths: Path) -> None:
        self.deaths = deaths

    def __call__(self, items: list[int]) -> list[int]:
        for item in items:
            if item == 13:
                with self.deaths.open("a") as file:
                    file.write(f"{os.getpid()}\n")
            if item == 7 or (item == 13 and len(self.deaths.read_text().split()) <= 2):
                os.kill(os.getpid(), signal.SIGKILL)
        return [2 * item for item in items]


def test_predict_equals_one_process(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
    options = ("predict", photographs, "-w", weights)
    assert run(*options, "-o", tmp_path / "one").code == 0
    result = run(*options, "-o", tmp_path / "many", "--ray", "--workers", 2)
    assert result.code == 0, result.err
    assert "3 images in" in result.out
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


@pytest.mark.slow
def test_a_lost_worker_costs_its_batch_only(tmp_path: Path) -> None:
    (tmp_path / "deaths").write_text("")
    results = run_in_actors(Doubler, {"deaths": tmp_path / "deaths"}, range(40), Resources(2, 1, 0))
    doubled = {item: result for batch, values in results for item, result in zip(batch, values or [None], strict=True)}
    assert doubled == {item: None if item == 7 else 2 * item for item in range(40)}
