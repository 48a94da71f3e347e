"""OpenVINO and NNCF are imported without sending usage data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from atrous import AtrousError
from atrous.telemetry import import_without_telemetry

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
    environment.pop("CI", None)  # where OpenVINO would keep quiet by itself
    result = subprocess.run(
        [sys.executable, "-c", FORBID_SOCKETS + program], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "a connection was opened" not in result.stderr


@pytest.mark.parametrize("package", ["openvino", "nncf"])
def test_importing_sends_and_writes_nothing(package: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    run_offline(
        f"from atrous.telemetry import import_without_telemetry as load; load({package!r}, 'export')\n"
        "assert sys.modules['openvino_telemetry'] is None",
        tmp_path,
    )
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_names_its_extra() -> None:
    with pytest.raises(AtrousError, match=r"none_such is not installed: pip install 'atrous\[export\]'"):
        import_without_telemetry("none_such", "export")
