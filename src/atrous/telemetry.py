"""Import packages that would otherwise send usage data."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from atrous.errors import AtrousError

_SENDER = "openvino_telemetry"


def import_without_telemetry(name: str, extra: str) -> Any:
    """Import OpenVINO or NNCF, which send usage data and write an id to the home folder as soon as they are imported.

    Both do so through the package `openvino_telemetry`, and work without it: in this process, it counts as not
    installed. `extra` is the extra of this package that installs `name`.

    Raises: `AtrousError` if `name` is not installed.
    """
    if sys.modules.get(_SENDER) is None:
        sys.modules[_SENDER] = None  # type: ignore[assignment]  # importing it then raises ImportError
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != name:
            raise
        raise AtrousError(f"{name} is not installed: pip install 'atrous[{extra}]'.") from error
