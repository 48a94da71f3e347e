from __future__ import annotations

import json
import os
from pathlib import Path

from tests.cli.conftest import Run


def test_a_tflite_graph_is_converted(run: Run, shared_data: Path, tmp_path: Path) -> None:
    graph = shared_data / "weights" / "deeplabv3_257_mv_gpu.tflite"
    result = run("import-weights", graph, "-o", tmp_path / "a.safetensors")
    assert result.code == 0, result.err
    assert "DeepLabV3, 21 classes" in result.out
    assert os.listdir(tmp_path) == ["a.safetensors"]
    photograph = shared_data / "images" / "cat_720p.jpg"
    result = run("predict", photograph, "-w", tmp_path / "a.safetensors", "-o", tmp_path / "out", "--json")
    assert json.loads(result.out)["classes"]["cat"] > 0.3


def test_an_unknown_format_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("")
    assert "Found an empty file" in run("import-weights", tmp_path / "a.h5", "-o", tmp_path / "a.safetensors").err
