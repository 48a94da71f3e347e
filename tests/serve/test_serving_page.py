"""The commands and the code of docs/serving.md, run as a reader would."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.server import Server

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text("utf-8")
TOKEN = "secret-token"


def commands(program: str) -> list[str]:
    text = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.startswith(program)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(ROOT / "examples" / "street.jpg", folder)
    (folder / "token.txt").write_text(TOKEN)
    with Server(["--timeout", "300"], folder / "log") as running:
        yield running


def run(server: Server, command: list[str]) -> str:
    done = subprocess.run(command, cwd=server.log.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("command", commands("curl"))
def test_curl(server: Server, command: str) -> None:
    run(server, ["bash", "-c", command.replace("http://127.0.0.1:8000", server.url).replace("curl", "curl -fsS", 1)])


@pytest.mark.slow
def test_python(server: Server) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    printed = run(server, [sys.executable, "-c", code.replace("http://127.0.0.1:8000", server.url)])
    assert printed.splitlines()[0] == "deeplab_v3_plus.efficientnet_lite0.camvid"


@pytest.mark.slow
@pytest.mark.parametrize("command", commands("atrous"))
def test_options(command: str) -> None:
    atrous = Path(sysconfig.get_path("scripts")) / "atrous"
    program = [str(atrous)] if atrous.exists() else [sys.executable, "-m", "atrous"]
    subprocess.run([*program, *command.split()[1:], "--help"], check=True, capture_output=True)


def test_build_arguments_and_variables_are_those_of_the_files() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    compose = (ROOT / "compose.yaml").read_text("utf-8")
    for name in re.findall(r"--build-arg (\w+)=", PAGE):
        assert f"ARG {name}=" in dockerfile
    for name in set(re.findall(r"ATROUS_[A-Z]+", PAGE)):
        assert name in compose
