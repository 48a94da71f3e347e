"""Every network exports, and released weights segment real photographs alike in every format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import atrous
from atrous import Segmenter, create_model, list_models
from atrous.data.catalog import open_dataset
from atrous.evaluation.confusion import ConfusionMatrix
from atrous.export import export_model
from tests.contract.trained import imitate_training
from tests.inference.networks import letter_card
from tests.offline import skip_without

skip_without("onnxscript")
skip_without("openvino")


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_every_network_exports(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create_model(name, width=0.125, num_classes=5)
    imitate_training(network)
    network.eval().card = letter_card(network.align_corners)
    suffix = ".onnx" if network.is_convertible else ".pt2"
    assert export_model(network, tmp_path / f"a{suffix}").largest_difference < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_twenty_photographs_are_segmented_alike(suffix: str, shared_data: Path, tmp_path: Path) -> None:
    weights = shared_data / "weights" / "deeplabv3_mnv2_pascal_quant.tflite"
    network = atrous.load(weights)
    exported = Segmenter.load(export_model(network, tmp_path / f"a{suffix}").path)
    assert exported.card == network.card
    data = open_dataset(f"voc2012:{shared_data / 'voc2012'}?split=val")
    scores = []
    for segmenter in (Segmenter(network, device="cpu"), exported):
        matrix = ConfusionMatrix(len(data.classes))
        for index in range(0, 160, 8):
            matrix.update(data[index].labels, segmenter(data[index].image).labels)
        scores.append(matrix.miou)
    assert scores[1] == pytest.approx(scores[0], abs=1e-4)
