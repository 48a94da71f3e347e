"""Describe where a result was computed: versions, devices, command, git state."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch


def describe_environment() -> dict[str, Any]:
    """Describe versions, devices, the command and the git state, for a record beside results."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning_fabric": _version("lightning-fabric"),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "processes": int(os.environ.get("WORLD_SIZE", 1)),
        "command": sys.argv,
        "git": _git_state(Path(__file__).parent),
    }


def _version(package: str) -> str | None:
    """Get the version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Get the commit of the code, and whether files were changed since; None outside a repository."""
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(folder), *command], capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": bool(changes)}
