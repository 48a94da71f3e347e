from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Run


def test_info_prints_the_card(run: Run, weights: Path) -> None:
    assert "deeplab_v3.mobilenet_v2" in run("info", weights).out
    assert json.loads(run("info", weights, "--json").out)["arguments"] == {"width": 0.125}
