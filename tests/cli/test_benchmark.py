from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Run

PACKAGED = "deeplab_v3_plus.efficientnet_lite0.camvid"


def test_benchmark_prints_a_row_per_engine(run: Run) -> None:
    arguments = ("benchmark", "-w", PACKAGED, "--size", "65x97", "--rounds", "2", "--engine", "torch")
    result = run(*arguments, "--json")
    assert result.code == 0, result.err
    rows = json.loads(result.out)["rows"]
    assert [(row["engine"], row["precision"]) for row in rows] == [("eager", "float32"), ("torch", "float32")]
    assert rows[1]["difference"] < 1e-3
    assert rows[1]["low"] <= rows[1]["milliseconds"] <= rows[1]["high"]
    assert 0 < rows[1]["share_of_peak"] < 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "513x"), "1025x2049"),
        (("--engine", "onnxruntim"), "Did you mean 'onnxruntime'"),
        (("--engine", "torch:float23"), "float32"),
    ],
)
def test_benchmark_reports_invalid_arguments(run: Run, arguments: tuple[str, ...], message: str) -> None:
    result = run("benchmark", "-w", PACKAGED, "--rounds", "1", *arguments)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1
