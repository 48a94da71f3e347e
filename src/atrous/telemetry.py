"""Import packages that would otherwise send usage data."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType

from atrous.errors import AtrousError

_SENDER = "openvino_telemetry"


def import_without_telemetry(name: str, extra: str | None = None) -> ModuleType:
    """Import ONNX Runtime, OpenVINO, NNCF, huggingface_hub, Ray or Gradio, which send usage data, without letting them.

    ONNX Runtime, huggingface_hub, Ray and Gradio read environment variables when they are imported (ONNX Runtime from
    version 1.31 on Linux too, where `disable_telemetry_events` would come too late; Ray in the processes that it
    starts, too). The others send by the package `openvino_telemetry`, and work without it: in this process, it counts
    as not installed. `extra` is the extra of this package that installs `name`.

    Raises: `AtrousError` if `name` is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # it asks for its newest version, too
    if sys.modules.get(_SENDER) is None:
        sys.modules[_SENDER] = None  # type: ignore[assignment]  # importing it then raises ImportError
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != name:
            raise
        package = f"'atrous[{extra}]'" if extra else name
        raise AtrousError(f"{name} is not installed: pip install {package}.") from error
