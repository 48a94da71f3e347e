"""Files of ExecuTorch compute what the network computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from atrous import AtrousError, Segmenter, create_model
from atrous.export import export_model
from atrous.export.exporter import read_metadata
from tests.export.networks import small_network
from tests.inference.networks import letter_card

runtime = pytest.importorskip("executorch.runtime")

SIZE = (97, 129)


@pytest.mark.parametrize(
    "name",
    [
        "deeplab_v3_plus.efficientnet_lite0",
        "deeplab_v3.mobilenet_v2",
        "fcn_8s.vgg16",
        "pspnet.resnet50",
        "unet.padded",
    ],
)
def test_networks_agree(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create_model(name, num_classes=5, width=0.25).eval()
    network.card = letter_card(align_corners=network.align_corners)
    report = export_model(network, tmp_path / "a.pte", size=SIZE)
    assert report.largest_difference < 1e-4


def test_a_file_holds_the_card_and_runs_by_itself(tmp_path: Path) -> None:
    network = small_network()
    path = export_model(network, tmp_path / "a.pte", size=SIZE).path
    metadata = read_metadata(path)
    assert metadata.size == SIZE
    assert metadata.card.classes == network.card.classes
    image = torch.randn(1, 3, *SIZE)
    (scores,) = runtime.Runtime.get().load_program(path).load_method("forward").execute([image])
    with torch.no_grad():
        torch.testing.assert_close(scores, network.scores(image), rtol=1e-4, atol=1e-4)


def test_labels(tmp_path: Path) -> None:
    network = small_network()
    path = export_model(network, tmp_path / "a.pte", labels=True, size=SIZE).path
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8))
    (labels,) = runtime.Runtime.get().load_program(path).load_method("forward").execute([image])
    assert labels.shape == (1, *SIZE)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    segnet = create_model("segnet.basic", num_classes=5, width=0.25).eval()
    segnet.card = letter_card(align_corners=False)
    with pytest.raises(AtrousError, match="ExecuTorch cannot run this network"):  # its runtime has no unpooling
        export_model(segnet, tmp_path / "a.pte", size=(96, 128))
    assert not list(tmp_path.iterdir())
    with pytest.raises(AtrousError, match="fixed size: add --size HxW"):
        export_model(small_network(), tmp_path / "a.pte")
    path = export_model(small_network(), tmp_path / "a.pte", size=SIZE).path
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(AtrousError, match=r"not a \.pte file, or a damaged one"):
        read_metadata(path)
    with pytest.raises(AtrousError, match="ExecuTorch's files are for other programs"):
        Segmenter.load(path)
