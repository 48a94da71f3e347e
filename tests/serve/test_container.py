"""The container: its Dockerfile is run step by step without a container engine, and its server is used from outside."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from atrous import Segmenter
from tests.serve.dockerfile import Build, Container, Stage, build_context, parse
from tests.serve.server import wait_for_handler

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
PHOTOGRAPH = ROOT / "examples" / "street.jpg"

SEGMENT = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", 8000, timeout=300)
connection.request("POST", sys.argv[1], sys.stdin.buffer.read(), {"Content-Type": "image/jpeg"})
response = connection.getresponse()
body = response.read()
assert response.status == 200, body
sys.stdout.buffer.write(body)
"""


def last_stage() -> list[tuple[str, str]]:
    instructions = parse(DOCKERFILE)
    return instructions[max(i for i, (keyword, _) in enumerate(instructions) if keyword == "FROM") :]


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
    return content


def test_the_image_runs_as_a_user_without_a_name_for_root() -> None:
    keywords = dict(last_stage())
    user, group = map(int, keywords["USER"].split(":"))
    assert user > 0
    assert group > 0
    assert f"--uid {user} " in DOCKERFILE


def test_the_image_asks_for_its_health() -> None:
    keywords = dict(last_stage())
    assert "/healthz" in keywords["HEALTHCHECK"]
    assert f", {keywords['EXPOSE']}," in keywords["HEALTHCHECK"]
    assert f'"{keywords["EXPOSE"]}"' in keywords["ENTRYPOINT"]


def test_the_context_holds_what_the_build_copies_and_nothing_private(tmp_path: Path) -> None:
    context = build_context(ROOT, tmp_path)
    copied = {
        source for keyword, argument in parse(DOCKERFILE) if keyword == "COPY" for source in argument.split()[:-1]
    }
    assert {path.name for path in context.iterdir()} == {name for name in copied if name[0] not in "-/"}
    assert not list(context.rglob("__pycache__"))
    assert not list(context.rglob(".git*"))


def test_an_unknown_instruction_is_an_error() -> None:
    with pytest.raises(ValueError, match="ONBUILD"):
        parse("FROM python:3.11-slim\nONBUILD RUN true\n")


def test_compose_gives_the_service_nothing_that_it_does_not_need() -> None:
    (service,) = compose()["services"].values()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(service[limit] for limit in ("cpus", "mem_limit", "pids_limit"))
    assert [mount.split(":")[0] for mount in service["tmpfs"]] == ["/tmp"]
    assert service["ports"][0].startswith("127.0.0.1:")
    assert "privileged" not in service


def test_compose_mounts_the_folders_of_the_image() -> None:
    (service,) = compose()["services"].values()
    keywords = dict(last_stage())
    mounts = [re.sub(r"\$\{\w+:-(\w+)\}", r"\1", volume).split(":") for volume in service["volumes"]]
    assert ["cache", keywords["VOLUME"]] in mounts
    assert ["weights", "/weights", "ro"] in mounts
    assert "ATROUS_WEIGHTS=/weights:" in keywords["ENV"]
    assert set(compose()["volumes"]) == {"cache", "weights"}


def test_the_entry_point_is_a_command_of_this_version() -> None:
    import json

    command = json.loads(dict(last_stage())["ENTRYPOINT"])
    assert command[0] == "atrous"
    done = subprocess.run(
        [sys.executable, "-m", *command, "--help"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_the_build_downloads_the_weights_it_is_asked_for(tmp_path: Path) -> None:
    (loop,) = (argument for keyword, argument in parse(DOCKERFILE) if keyword == "RUN" and "${WEIGHTS}" in argument)
    assert "--download" in loop

    def build(ids: str) -> subprocess.CompletedProcess[str]:
        command = loop.replace("/opt/atrous/bin/atrous", f"{sys.executable} -m atrous").replace("/opt", str(tmp_path))
        environment = {**os.environ, "WEIGHTS": ids, "ATROUS_WEIGHTS": "", "ATROUS_OFFLINE": "1"}
        shutil.rmtree(tmp_path / "weights", ignore_errors=True)
        return subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)

    assert build("").returncode == 0
    assert build("deeplab_v3_plus.efficientnet_lite0.camvid").returncode == 0
    assert "ATROUS_OFFLINE is set" in build("deeplab_v3.mobilenet_v2.voc").stderr
    assert build("no_such_weights").returncode != 0


def torch_index() -> dict[str, str]:
    """The build argument for torch: the Dockerfile's own index where it can be reached, else none beside pip's."""
    (default,) = re.findall(r"^ARG TORCH_INDEX=(.+)$", DOCKERFILE, re.MULTILINE)
    try:
        with urllib.request.urlopen(f"{default}/torch/", timeout=10):
            return {}
    except OSError:
        return {"TORCH_INDEX": "file:///none"}  # pip leaves out places that do not exist


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("image")
    tools = ("unshare", "nsenter", "setpriv", "chroot")
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or not all(map(shutil.which, tools)):
        pytest.skip("needs root, unshare, nsenter and setpriv, to run the steps of the Dockerfile")
    for part in ("a", "b", "c"):
        (folder / part).mkdir()
    overlay = f"mount -t overlay overlay -o lowerdir=/,upperdir={folder}/a,workdir={folder}/b {folder}/c"
    if subprocess.run(["unshare", "--mount", "sh", "-c", overlay], capture_output=True, check=False).returncode:
        pytest.skip("needs overlays over the root file system, which this machine does not mount")
    context = build_context(ROOT, folder / "context")
    yield Build(DOCKERFILE, context, folder / "stages", torch_index()).stage
    subprocess.run(["rm", "-rf", folder], check=True)


@pytest.mark.slow
def test_the_container_serves_with_a_read_only_root(image: Stage, tmp_path: Path) -> None:
    with Container(image, tmp_path) as container:
        container.wait_until_healthy(120)
        assert container.execute(["id", "-u"]).stdout.strip() == b"10001"
        for path in ("/opt/atrous/x", "/weights/x", "/nonexistent", "/etc/x", "/x"):
            assert container.execute(["mkdir", path]).returncode != 0, path
        done = container.execute(["python", "-c", SEGMENT, "/v1/segment?format=png"], input=PHOTOGRAPH.read_bytes())
        assert done.returncode == 0, done.stderr.decode()
        labels = np.asarray(Image.open(io.BytesIO(done.stdout)))
        np.testing.assert_array_equal(
            labels, Segmenter.load("deeplab_v3_plus.efficientnet_lite0.camvid")(PHOTOGRAPH).labels
        )
        crf = "/v1/segment?format=png&crf=v2"  # its compiled functions are kept in the volume
        done = container.execute(["python", "-c", SEGMENT, crf], input=PHOTOGRAPH.read_bytes())
        assert done.returncode == 0, done.stderr.decode()
        assert container.execute(["sh", "-c", "ls /var/cache/atrous/numba/*/*.nbc"]).returncode == 0
        written = container.execute(["find", "/tmp", "/var/cache/atrous", "-type", "f"]).stdout.decode().splitlines()
        assert not [path for path in written if path.endswith((".jpg", ".png", ".npz"))]
        assert all(path.startswith("/var/cache/atrous/") for path in written if "matplotlib" not in path), written
        assert container.stop(60) == 0


@pytest.mark.slow
def test_the_container_stops_while_it_starts(image: Stage, tmp_path: Path) -> None:
    with Container(image, tmp_path) as container:
        assert not container.healthy()
        wait_for_handler(container.pid)
        assert container.stop(60) == 143


@pytest.mark.slow
def test_the_health_check_notices_a_server_that_hangs(image: Stage, tmp_path: Path) -> None:
    import signal

    with Container(image, tmp_path) as container:
        container.wait_until_healthy(120)
        os.kill(container.pid, signal.SIGSTOP)
        assert not container.healthy()
        os.kill(container.pid, signal.SIGCONT)
        assert container.healthy()
