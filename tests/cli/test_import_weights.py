from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import atrous
from atrous.card import Card, Preprocessing
from atrous.weights import save
from tests.cli.conftest import Run
from tests.hostile.files import WEIGHTS


def test_a_tflite_graph_is_converted(run: Run, shared_data: Path, tmp_path: Path) -> None:
    graph = shared_data / "weights" / "deeplabv3_257_mv_gpu.tflite"
    result = run("import-weights", graph, "-o", tmp_path / "a.safetensors")
    assert result.code == 0, result.err
    assert "TensorFlow Lite graph: DeepLabV3, 21 classes" in result.out
    assert "network: deeplab_v3.mobilenet_v2_x0.5(output_stride=8" in result.out
    assert "license: Apache-2.0" in result.out
    assert os.listdir(tmp_path) == ["a.safetensors"]
    photograph = shared_data / "images" / "cat_720p.jpg"
    result = run("predict", photograph, "-w", tmp_path / "a.safetensors", "-o", tmp_path / "out", "--json")
    assert json.loads(result.out)["classes"]["cat"] > 0.3


def test_an_unknown_format_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("")
    assert "Found an empty file" in run("import-weights", tmp_path / "a.h5", "-o", tmp_path / "a.safetensors").err


def test_arguments_that_the_file_does_not_tell(run: Run, tmp_path: Path) -> None:
    network = atrous.create_model("deeplab_v3.mobilenet_v2", num_classes=3, width=0.35)
    network.card = Card(
        model="deeplab_v3.mobilenet_v2",
        arguments={"width": 0.35},
        classes=("a", "b", "c"),
        colors=((0, 0, 0),) * 3,
        preprocessing=Preprocessing(),
    )
    save(network, tmp_path / "a.safetensors")
    given = ("-a", "output_stride=8", "-a", "backbone_options.padding=tensorflow")
    result = run("import-weights", tmp_path / "a.safetensors", *given, "-o", tmp_path / "b.safetensors")
    assert result.code == 0, result.err
    card = atrous.load(tmp_path / "b.safetensors").card
    assert card is not None
    expected = {"width": 0.35, "output_stride": 8, "backbone_options": {"padding": "tensorflow"}}
    assert card.arguments == expected
    result = run("import-weights", tmp_path / "a.safetensors", "-a", "stride=8", "-o", tmp_path / "c.safetensors")
    assert result.code != 0
    assert "stride" in result.err
    assert not (tmp_path / "c.safetensors").exists()


@pytest.mark.parametrize("kind", ["caffemodel", "tensorflow index", "pb", "pth", "safetensors of another library"])
def test_files_are_imported_and_used_directly_whatever_their_name(
    run: Run, kind: str, photographs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    file = WEIGHTS[kind].write(folder)
    if kind != "tensorflow index":  # two files, which belong together by their names
        file = file.rename(folder / "weights.bin")
    result = run("import-weights", file, "-o", tmp_path / "a.safetensors")
    assert result.code == 0, result.err
    printed = []
    for weights in (file, tmp_path / "a.safetensors"):
        result = run("predict", photographs / "a.png", "-w", weights, "-o", tmp_path / "out", "--json", "--overwrite")
        assert result.code == 0, result.err
        printed.append(json.loads(result.out)["classes"])
    assert printed[0] == printed[1]
