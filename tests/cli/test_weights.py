from __future__ import annotations

from tests.cli.conftest import Run


def test_weights_lists_ids_by_pattern(run: Run) -> None:
    assert "deeplab_v3.mobilenet_v2_x0.5.voc" in run("weights", "voc").out
    assert run("weights", "nothing").code == 2
