from __future__ import annotations

import pytest

from tests.cli.conftest import Run


def test_explain_prints_stages_or_layers(run: Run) -> None:
    result = run("explain", "deeplab_v3.mobilenet_v2", "--output-stride", "8", "--size", "257x129")
    assert result.code == 0, result.err
    assert "backbone.features.17" in result.out
    assert "33x17" in result.out
    assert "2,113,557 parameters" in result.out
    assert "features.17.conv.1.0" in run("explain", "deeplab_v3.mobilenet_v2", "--layers").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("deeplab_v3.resnet5",), "Did you mean 'deeplab_v3.resnet50'"),
        (("deeplab_v3.resnet50", "--size", "513"), "513x513"),
        (("deeplab_v3.resnet50", "--output-stride", "12"), "this network runs at"),
    ],
)
def test_explain_reports_invalid_arguments(run: Run, arguments: tuple[str, ...], message: str) -> None:
    result = run("explain", *arguments)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1
