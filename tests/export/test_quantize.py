"""Quantized networks keep the mIoU that they are allowed to lose, and say what they lost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from atrous import AtrousError, Segmenter
from atrous.card import Measurement
from atrous.export import QuantizationReport, quantize_model
from atrous.imaging.io import Pixels, resize_image
from atrous.imaging.labels import Labels
from atrous.inference.engines.openvino import create_core
from atrous.models import SegmentationModel
from tests.export.networks import small_network
from tests.inference.networks import SmallNetwork, letter_card
from tests.offline import run_offline, skip_without

skip_without("nncf")
skip_without("onnxscript")


class Sample(NamedTuple):
    image: Pixels
    labels: Labels
    name: str


class OwnLabels:
    """Random blobs, labeled by a network itself: its mIoU is 100, and every changed label counts."""

    ignore_index = 255

    def __init__(self, model: SegmentationModel, count: int = 6) -> None:
        assert model.card is not None
        self.classes = model.card.classes
        segmenter = Segmenter(model, device="cpu")
        generator = np.random.default_rng(0)
        images = [resize_image(generator.integers(0, 256, (9, 8, 3), np.uint8), 96, 88) for _ in range(count)]
        self.samples = [Sample(image, segmenter(image).labels, str(n)) for n, image in enumerate(images)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


class FragileNetwork(SmallNetwork):
    """One channel is a thousand times as strong as the others, and unused: 8 bits for all leave them next to none."""

    def __init__(self) -> None:
        super().__init__(align_corners=False)
        self.mix = nn.Conv2d(5, 5, 1)
        nn.init.eye_(self.mix.weight.data[:, :, 0, 0])
        self.strong = nn.Conv2d(5, 1, 1)
        nn.init.constant_(self.strong.weight, 300.0)
        self.classifier = nn.Conv2d(6, 5, 1)
        with torch.no_grad():
            self.classifier.weight[:] = 0
            self.classifier.weight[:, :5, 0, 0] = torch.eye(5)

    def scores(self, image: Tensor) -> Tensor:
        x = super().scores(image)
        return self.classifier(torch.cat([self.mix(x), self.strong(x)], 1))


def fragile_network() -> FragileNetwork:
    torch.manual_seed(1)
    network = FragileNetwork().eval()
    network.card = letter_card(align_corners=False)
    return network


def quantize(network: SegmentationModel, path: Path, **options) -> QuantizationReport:
    data = OwnLabels(network)
    return quantize_model(network, path, data, data, images=6, data="blobs", command="atrous quantize", **options)


@pytest.mark.parametrize("suffix", [".xml", ".onnx"])
def test_a_quantized_file_segments_nearly_alike_and_says_what_it_costs(suffix: str, tmp_path: Path) -> None:
    network = small_network()
    assert network.card is not None
    earlier = Measurement(name="mIoU", value=50.0, data="somewhere")
    network.card = network.card.model_copy(update={"measured": (earlier,)})
    report = quantize(network, tmp_path / f"a{suffix}", max_drop=20)
    assert report.miou[0] == pytest.approx(100)
    assert 80 <= report.miou[1] < 100
    assert sorted(os.listdir(tmp_path)) == (["a.bin", "a.xml"] if suffix == ".xml" else ["a.onnx"])
    segmenter = Segmenter.load(report.path)
    assert segmenter.engine.precision == "int8"
    figures = {each.name: each for each in segmenter.card.measured if each.data != "somewhere"}
    assert figures["mIoU"].value == pytest.approx(report.miou[1], abs=0.01)
    assert figures["mIoU"].data == "blobs (6 images)"
    assert figures["mIoU before quantization"].value == 100
    assert figures["megabytes"].command == "atrous quantize"
    assert earlier.model_copy(update={"name": "mIoU before quantization"}) in segmenter.card.measured
    sample = OwnLabels(network)[0]
    assert (segmenter(sample.image).labels == sample.labels).mean() > 0.8


def test_layers_that_are_not_quantized_compute_in_bfloat16_on_request(tmp_path: Path) -> None:
    network = small_network()
    report = quantize(network, tmp_path / "a.xml", max_drop=20)
    if "BF16" not in create_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(AtrousError, match="does not compute in bfloat16"):
            Segmenter.load(report.path, precision="bfloat16")
        return
    segmenter, exact = Segmenter.load(report.path, precision="bfloat16"), Segmenter.load(report.path)
    assert segmenter.engine.precision == "bfloat16"
    sample = OwnLabels(network)[0]
    assert (segmenter(sample.image).labels == sample.labels).mean() > 0.8
    assert (segmenter.logits(sample.image) != exact.logits(sample.image)).any()


def test_layers_that_lose_stay_in_float(tmp_path: Path) -> None:
    report = quantize(fragile_network(), tmp_path / "a.xml", max_drop=10)
    assert report.miou[1] >= 90
    kept = report.path.read_text().count('type="FakeQuantize"')
    everything = quantize(fragile_network(), tmp_path / "b.xml", max_drop=100)
    assert everything.miou[1] < 90
    assert 0 < kept < everything.path.read_text().count('type="FakeQuantize"')


def test_a_drop_that_cannot_be_kept_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match=r"below the allowed drop of -1, so no file was written"):
        quantize(small_network(), tmp_path / "a.xml", max_drop=-1)
    assert os.listdir(tmp_path) == []


def test_the_network_stays_where_and_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atrous.inference.segmenter.resolve_device", lambda device: device.replace("auto", "meta"))
    network = small_network()
    data = OwnLabels(network)
    quantize_model(network.train(), tmp_path / "a.onnx", data, data, images=6)
    assert all(module.training for module in network.modules())
    assert next(network.parameters()).device.type == "cpu"


def test_mistakes_are_named(tmp_path: Path) -> None:
    network = small_network()
    with pytest.raises(AtrousError, match=r"name it \*\.xml or \*\.onnx"):
        quantize(network, tmp_path / "a.pt2")
    data = OwnLabels(network)
    data.classes = ("a", "b")
    with pytest.raises(AtrousError, match="predicts 5 classes"):
        quantize_model(network, tmp_path / "a.xml", data, data)


def test_quantizing_sends_and_writes_nothing(tmp_path: Path) -> None:
    program = """
from pathlib import Path
from tests.export.networks import small_network
from tests.export.test_quantize import quantize
quantize(small_network(), Path.home() / "out" / "a.xml", max_drop=100)
"""
    run_offline(program, tmp_path)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"out/a.xml", "out/a.bin"}
