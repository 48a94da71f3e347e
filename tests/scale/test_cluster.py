"""Commands on a real cluster of two workers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from atrous.scale.cluster import Resources
from atrous.scale.ray_data import run_in_actors
from tests.command_line import Run
from tests.offline import skip_without
from tests.scale.test_evaluate import results
from tests.scale.test_predict import contents

skip_without("ray")
pytestmark = pytest.mark.usefixtures("cluster")


WATCH = """
import json, sys, time

import psutil

from atrous.scale.cluster import Resources, connect
from atrous.scale.ray_data import run_in_actors


class Sleeper:
    def __call__(self, items):
        time.sleep(0.2)
        return items


def is_usage_on(process):
    environment = process.environ()  # overwritten by the title that some processes give themselves
    return "HOME" in environment and environment.get("RAY_USAGE_STATS_ENABLED") != "0"


with connect(None, Resources(workers=2)) as resources:
    import ray

    own = {ray.util.get_node_ip_address(), "127.0.0.1", "::1", "::ffff:127.0.0.1"}
    own |= {f"::ffff:{ray.util.get_node_ip_address()}"}
    elsewhere, enabled, processes, names = set(), set(), set(), set()
    for _ in run_in_actors(Sleeper, {}, range(16), resources):
        for process in psutil.Process().children(recursive=True):
            try:
                processes.add(process.pid)
                names.add(" ".join(process.cmdline()))
                if is_usage_on(process):
                    enabled.add(process.name())
                for connection in process.net_connections():
                    if connection.raddr and connection.raddr.ip not in own:
                        elsewhere.add(connection.raddr.ip)
            except psutil.Error:
                pass
    dashboards = [name for name in names if "dashboard.py" in name and "--disable-frontend" not in name]
print(json.dumps({
    "processes": len(processes), "enabled": sorted(enabled), "elsewhere": sorted(elsewhere), "dashboards": dashboards,
}))
"""
"""A program that runs a cluster, and describes its processes and their connections."""


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


def test_evaluate_equals_one_process(run: Run, own: Path, three_classes: Path, tmp_path: Path) -> None:
    command = ("evaluate", "-w", three_classes, "--data", f"{own}?split=train", "-o")
    assert run(*command, tmp_path / "one").code == 0
    result = run(*command, tmp_path / "many", "--ray")
    assert result.code == 0, result.err
    assert results(tmp_path / "many") == results(tmp_path / "one")


@pytest.mark.slow
def test_a_lost_worker_costs_its_batch_only(tmp_path: Path) -> None:
    (tmp_path / "deaths").write_text("")
    results = run_in_actors(Doubler, {"deaths": tmp_path / "deaths"}, range(40), Resources(2, 1, 0))
    doubled = {item: result for batch, values in results for item, result in zip(batch, values or [None], strict=True)}
    assert doubled == {item: None if item == 7 else 2 * item for item in range(40)}


@pytest.mark.slow
def test_a_killed_driver_starts_again(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
    """With a cluster of its own, whose processes end with it; what was finished is not written again."""
    many = tmp_path / "copies"
    many.mkdir()
    for number in range(100):
        shutil.copy(photographs / "a.jpg", many / f"{number:03}.jpg")
    assert run("predict", many, "-w", weights, "-o", tmp_path / "one").code == 0
    out = tmp_path / "many"
    command = [sys.executable, "-m", "atrous", "predict", str(many), "-w", str(weights), "-o", str(out), "--ray"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while len(list(out.glob("*_overlay.png"))) < 10:
        assert driver.poll() is None
        time.sleep(0.02)
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait()
    _, left = psutil.wait_procs(family, timeout=240)  # agents of the cluster notice after a minute or two
    assert not left
    finished = {path.name: path.stat().st_ino for path in out.glob("*_overlay.png")}
    assert len(finished) < 100
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    assert contents(out) == contents(tmp_path / "one")
    assert {name: (out / name).stat().st_ino for name in finished} == finished


def test_a_cluster_sends_nothing(tmp_path: Path) -> None:
    """No process of a cluster is told to send usage data, connects to another machine, or writes to the home folder."""
    program = tmp_path / "program.py"
    program.write_text(WATCH)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "XDG_"))}
    environment |= {"HOME": str(tmp_path / "home"), "ATROUS_CACHE": str(tmp_path / "cache")}
    result = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["processes"] >= 4  # the store of the cluster, its scheduler and two workers among them
    assert report["enabled"] == []
    assert report["elsewhere"] == []
    assert report["dashboards"] == []
    home = [path.name for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert home in ([], ["auth_token"])  # the key of the cluster, which stays on this machine
