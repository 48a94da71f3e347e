"""Run programs that must not open a connection, with an empty home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FORBID_SOCKETS = """
import socket, sys

def forbidden(*arguments, **options):
    raise AssertionError("a connection was opened")

socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = socket.getaddrinfo = forbidden
"""
"""The beginning of a program that must not open a connection."""


def run_offline(program: str, home: Path) -> None:
    """Run a program with an empty home folder, in a process that must not open a connection."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("XDG_")}
    environment |= {"HOME": str(home), "USERPROFILE": str(home), "ATROUS_CACHE": str(home / "cache")}
    for key in (
        "CI",
        "ORT_DISABLE_TELEMETRY",
        "HF_HUB_DISABLE_TELEMETRY",
        "RAY_USAGE_STATS_ENABLED",
    ):  # with which packages keep quiet by themselves
        environment.pop(key, None)
    result = subprocess.run(
        [sys.executable, "-c", FORBID_SOCKETS + program], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "a connection was opened" not in result.stderr


def skip_without(package: str) -> None:
    """Skip where a package is not installed, without importing it, for that would send usage data."""
    if find_spec(package) is None:
        pytest.skip(f"needs {package}", allow_module_level=True)
