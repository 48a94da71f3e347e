"""Exported files are weights: for `Segmenter.load`, `atrous predict`, `atrous evaluate` and `atrous info`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous import AtrousError, Segmenter
from atrous.export import export_model
from atrous.export.exporter import read_metadata
from atrous.imaging.io import read_image
from tests.command_line import Run
from tests.export.networks import small_network
from tests.offline import run_offline, skip_without

skip_without("onnxscript")
skip_without("openvino")

STREET = Path(__file__).parents[2] / "examples" / "street.jpg"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network in each format, and as labels."""
    folder = tmp_path_factory.mktemp("exported")
    for name in ("a.onnx", "a.xml", "a.pt2"):
        export_model(small_network(grid=4), folder / name)
    export_model(small_network(grid=4), folder / "labels.onnx", labels=True)
    export_model(small_network(grid=4), folder / "fixed.onnx", size=(97, 129))
    return folder


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_segmenter_gives_the_labels_of_the_network(suffix: str, files: Path) -> None:
    image = read_image(STREET)[:201, :303]
    for tta in ("none", "flip"):
        expected = Segmenter(small_network(grid=4), device="cpu", tta=tta)(image).labels
        labels = Segmenter.load(files / f"a{suffix}", tta=tta)(image).labels
        assert (labels == expected).mean() > 0.9999


def test_a_flipped_bit_in_the_values_of_an_openvino_file(files: Path, tmp_path: Path) -> None:
    for name in ("a.xml", "a.bin"):
        shutil.copy(files / name, tmp_path / name)
    values = bytearray((tmp_path / "a.bin").read_bytes())
    values[len(values) // 2] ^= 1
    (tmp_path / "a.bin").write_bytes(values)
    with pytest.raises(AtrousError, match=r"a\.bin: this file is damaged, or not that of a\.xml\. Export the weights"):
        Segmenter.load(tmp_path / "a.xml")


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_info_shows_the_card(suffix: str, files: Path, run: Run) -> None:
    network = small_network(grid=4)
    assert network.card is not None
    shown = json.loads(run("info", files / f"a{suffix}", "--json").out)
    assert shown == json.loads(network.card.model_dump_json())


def test_a_network_of_fixed_size_pads_images_to_it(files: Path) -> None:
    image = read_image(STREET)[:150, :100]
    assert Segmenter.load(files / "fixed.onnx")(image).labels.shape == (150, 100)


@pytest.mark.parametrize("options", [{"tta": "v3"}, {"tile": 65}])
def test_a_network_of_fixed_size_refuses_other_sizes(options: dict[str, object], files: Path) -> None:
    segmenter = Segmenter.load(files / "fixed.onnx", **options)
    with pytest.raises(AtrousError, match=r"exported for inputs of 97 x 129 .*without --size"):
        segmenter(read_image(STREET)[:97, :129])


def test_files_without_scores_are_refused(files: Path) -> None:
    with pytest.raises(AtrousError, match=r"labels\.onnx: this file takes 8-bit images and gives labels"):
        Segmenter.load(files / "labels.onnx")
    assert read_metadata(files / "labels.onnx").output == "labels"
    with pytest.raises(AtrousError, match=r"a\.pt2: a \.pt2 file can contain code"):
        Segmenter.load(files / "a.pt2")


def test_predicting_needs_no_torch(files: Path, tmp_path: Path) -> None:
    """And opens no connection, and writes nothing but the results to an empty home folder."""
    image = tmp_path / "image.png"
    Image.fromarray(read_image(STREET)[:201, :303]).save(image)
    for name in ("a.onnx", "a.xml"):
        home = tmp_path / name
        home.mkdir()
        program = f"""
sys.modules["torch"] = None  # importing it raises ImportError
sys.argv = ["atrous", "predict", {str(image)!r}, "-w", {str(files / name)!r}, "-o", {str(home / "out")!r}]
from atrous.cli.main import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""
        run_offline(program, home)
        assert sorted(os.listdir(home)) == ["out"]
        with Image.open(home / "out" / "image.png") as labels:
            expected = Segmenter(small_network(grid=4), device="cpu")(image).labels
            assert (np.array(labels) == expected).mean() > 0.9999
        shutil.rmtree(home)
