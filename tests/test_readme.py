"""The commands and code of the README, run as a newcomer would."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def place(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like the clone, with the images and files that the README's examples name."""
    monkeypatch.setenv("ATROUS_WEIGHTS", str(shared_data / "weights"))
    monkeypatch.setenv("PATH", f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    photograph = (ROOT / "examples" / "street.jpg").read_bytes()
    for name in ("photos/a.jpg", "more/b.jpg", "street.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(photograph)
    (tmp_path / "deeplabv3_257_mv_gpu.tflite").symlink_to(shared_data / "weights" / "deeplabv3_257_mv_gpu.tflite")
    return tmp_path


def test_the_python_example_runs(place: Path) -> None:
    first, second, *_ = blocks("python")
    done = subprocess.run([sys.executable, "-c", first + second], check=True, capture_output=True, text=True)
    fractions = ast.literal_eval(done.stdout)
    assert {"sky", "building", "road", "car"} <= set(fractions)
    assert (place / "out" / "street.png").is_file()
    assert (place / "out" / "street_overlay.png").is_file()


def commands() -> list[str]:
    (example,) = (block for block in blocks("bash") if "atrous models" in block)
    return [line.split("#")[0].strip() for line in example.splitlines() if line.strip()]


@pytest.mark.parametrize("command", [c for c in commands() if not c.startswith(("atrous inspect", "atrous models"))])
def test_commands_run(command: str, place: Path) -> None:
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_linked_files_and_named_networks_exist() -> None:
    from atrous import list_models

    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    table = README.split("## Networks")[1].split("The counts are")[0]
    for name in re.findall(r"`([a-z0-9_]+\.[a-z0-9_.]+)`", table):
        assert name in list_models()


def test_parameter_counts_are_right() -> None:
    import torch

    from atrous import create_model
    from atrous.analysis.counts import count_parameters

    rows = re.findall(r"\| `([a-z0-9_.]+)`(?:, `([a-z0-9_.]+)`)? \| ([\d,]+) \|", README)
    assert len(rows) == 13
    for first, second, parameters in rows:
        counts = set()
        for name in filter(None, (first, second)):
            with torch.device("meta"):
                counts.add(count_parameters(create_model(name)))
        assert int(parameters.replace(",", "")) in counts, first
