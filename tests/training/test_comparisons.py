"""The comparisons of the documentation: every training that they would run has a recipe whose network can be built."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from atrous import create_model
from atrous.training import read_recipe

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _as_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def build(*overrides: str) -> None:
    (stage,) = read_recipe("camvid_baseline", overrides).stages
    create_model(stage.model.id, **stage.model.options)


def test_each_finding() -> None:
    findings = importlib.import_module("findings")
    for finding in findings.FINDINGS:
        build(*findings.SHARED, *finding.overrides, "steps=3000", "seed=1")


def test_each_head() -> None:
    heads = importlib.import_module("heads")
    for _, model, backbone in heads.NETWORKS:
        start = heads.choose_weights(backbone, "")
        build(*heads.BUDGET, *heads.overrides(model, backbone, heads.RATES[0], 500, 1), *start)
