"""Exported files compute what the network computes, at any size, and carry its card."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from atrous import AtrousError, create_model
from atrous.card import Preprocessing
from atrous.export import export_model, pt2
from atrous.export.verify import SIZES, sample_images, verify
from atrous.inference.engines.convert import ScoreModule
from atrous.inference.engines.metadata import METADATA_KEY, NetworkMetadata
from atrous.inference.engines.openvino import import_openvino
from atrous.models import SegmentationModel
from tests.export.networks import size_dependent_network, small_network
from tests.inference.networks import letter_card
from tests.offline import run_offline, skip_without

onnx = pytest.importorskip("onnx")
skip_without("onnxscript")
skip_without("openvino")

SUFFIXES = (".onnx", ".xml", ".pt2")


def read_metadata(path: Path) -> NetworkMetadata:
    """Read the metadata by the package of each format, not by this one."""
    if path.suffix == ".onnx":
        properties = {each.key: each.value for each in onnx.load(path).metadata_props}
        return NetworkMetadata.read(properties.get(METADATA_KEY), str(path))
    if path.suffix == ".xml":
        return NetworkMetadata.read(
            import_openvino().Core().read_model(path).get_rt_info(METADATA_KEY).astype(str), str(path)
        )
    files = {METADATA_KEY: ""}
    torch.export.load(path, extra_files=files)
    assert pt2.read_metadata(path) == NetworkMetadata.read(files[METADATA_KEY], str(path))
    return pt2.read_metadata(path)


def axes(path: Path) -> dict[str, list[str | int]]:
    """Names and axes of the inputs and outputs of an ONNX file."""
    graph = onnx.load(path).graph
    return {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_holds_network_and_card(suffix: str, tmp_path: Path) -> None:
    network = small_network(grid=4)
    report = export_model(network, tmp_path / f"a{suffix}")
    assert [each.size for each in report.differences] == list(SIZES)
    assert report.largest_difference < 1e-5
    assert sorted(os.listdir(tmp_path)) == (["a.bin", "a.xml"] if suffix == ".xml" else [f"a{suffix}"])
    assert report.num_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    metadata = read_metadata(report.path)
    assert metadata.card == network.card
    assert (metadata.output, metadata.size, metadata.align_corners, metadata.output_stride) == ("scores", None, True, 4)
    if suffix == ".onnx":
        assert axes(report.path) == {"image": ["N", 3, "H", "W"], "scores": ["N", 5, "h", "w"]}
    assert str(Path(__file__).parent.parent).encode() not in report.path.read_bytes()  # no trace of this machine


def test_a_model_in_training_stays_as_it_is(tmp_path: Path) -> None:
    network = small_network().train()
    export_model(network, tmp_path / "a.onnx")
    assert all(module.training for module in network.modules())


def test_layers_that_depend_on_the_size_are_right_at_other_sizes(tmp_path: Path) -> None:
    """By both runtimes: OpenVINO reads ONNX files, too."""
    from atrous.export import openvino as openvino_format

    network = size_dependent_network()
    path = tmp_path / "a.onnx"
    assert export_model(network, path).largest_difference < 1e-5
    run = openvino_format.Runner(path)
    assert (
        max(each.largest for each in verify(run, ScoreModule(network), sample_images([], None), Preprocessing())) < 1e-5
    )


def test_inputs_and_outputs_of_a_file_of_labels_are_named(tmp_path: Path) -> None:
    path = export_model(small_network(), tmp_path / "a.onnx", labels=True).path
    assert axes(path) == {"image": ["N", "H", "W", 3], "labels": ["N", "H", "W"]}


def test_a_fixed_size_becomes_the_size_of_the_card(tmp_path: Path) -> None:
    report = export_model(small_network(grid=4), tmp_path / "a.xml", size=(65, 97))
    metadata = read_metadata(report.path)
    preprocessing = metadata.card.preprocessing
    assert (metadata.size, preprocessing.resize, preprocessing.size, preprocessing.grid) == (
        (65, 97),
        "pad",
        (65, 97),
        None,
    )
    assert {each.size for each in report.differences} == {(65, 97)}
    shape = import_openvino().Core().read_model(report.path).input("image").partial_shape
    assert str(shape) == "[?,3,65,97]"


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_file_that_differs_is_not_left_behind(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from atrous.export import onnx as onnx_format
    from atrous.export import openvino as openvino_format

    class WrongRunner:
        def __init__(self, path: Path) -> None:
            assert path.exists()

        def __call__(self, image: NDArray[np.generic]) -> NDArray[np.generic]:
            with torch.inference_mode():
                return (network.scores(torch.from_numpy(image)) * 1.002).numpy()

    network = small_network()
    monkeypatch.setattr(onnx_format, "Runner", WrongRunner)
    monkeypatch.setattr(openvino_format, "Runner", WrongRunner)
    (tmp_path / f"a{suffix}").write_text("an earlier file")
    with pytest.raises(AtrousError, match=r"differs from the original by 0\.002 .* no file was written"):
        export_model(network, tmp_path / f"a{suffix}")
    assert os.listdir(tmp_path) == [f"a{suffix}"]
    assert (tmp_path / f"a{suffix}").read_text() == "an earlier file"


def test_formats_are_chosen_by_suffix(tmp_path: Path) -> None:
    network = small_network()
    with pytest.raises(AtrousError, match=r"unknown format\. Did you mean '\.onnx'.* Name the file \*\.onnx, \*\.pt2"):
        export_model(network, tmp_path / "a.onx")
    with pytest.raises(AtrousError, match="litert-torch"):
        export_model(network, tmp_path / "a.tflite")
    network.card = None
    with pytest.raises(AtrousError, match="no card"):
        export_model(network, tmp_path / "a.onnx")


def crf_network() -> SegmentationModel:
    network = create_model("crf_rnn.vgg16", num_classes=5, width=0.02, iterations=2).eval()
    network.card = letter_card(align_corners=False)
    return network


def test_a_crf_is_refused_where_it_cannot_be_expressed(tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match=r"\.onnx cannot express .* export it to \.pt2"):
        export_model(crf_network(), tmp_path / "a.onnx")
    assert os.listdir(tmp_path) == []


def test_exporting_sends_and_writes_nothing(tmp_path: Path) -> None:
    program = """
from pathlib import Path
from atrous.export import export_model
from tests.export.networks import small_network
for suffix in (".xml", ".onnx", ".pt2"):
    export_model(small_network(), Path.home() / "out" / f"a{suffix}")
"""
    run_offline(program, tmp_path)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"out/a.xml", "out/a.bin", "out/a.onnx", "out/a.pt2"}
