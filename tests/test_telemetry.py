"""ONNX Runtime, OpenVINO, NNCF and huggingface_hub are imported without sending usage data."""

from __future__ import annotations

from pathlib import Path

import pytest

from atrous import AtrousError
from atrous.telemetry import import_without_telemetry
from tests.offline import run_offline, skip_without


@pytest.mark.parametrize("package", ["onnxruntime", "openvino", "nncf", "huggingface_hub", "ray"])
def test_importing_sends_and_writes_nothing(package: str, tmp_path: Path) -> None:
    skip_without(package)
    run_offline(
        f"from atrous.telemetry import import_without_telemetry as load; load({package!r}, 'export')\n"
        "assert sys.modules['openvino_telemetry'] is None",
        tmp_path,
    )
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_names_its_extra() -> None:
    with pytest.raises(AtrousError, match=r"none_such is not installed: pip install 'atrous\[export\]'"):
        import_without_telemetry("none_such", "export")
