from __future__ import annotations

from tests.cli.conftest import Run


def test_models_lists_counts_and_output_strides(run: Run) -> None:
    result = run("models", "deeplab_v3.mobilenet_v2")
    assert "2,113,557" in result.out
    assert "2.74 G" in result.out
    assert "16 8 32" in result.out
    assert "Chen et al., arXiv 1706.05587" in result.out
    assert "resnet" not in result.out
    assert run("models", "nothing").code == 2
