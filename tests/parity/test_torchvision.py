"""Networks of torchvision and ours compute the same from the same state dict, auxiliary heads included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.parity.networks import check, import_torchvision, load
from tests.weights.importers.library_networks import randomize

segmentation = import_torchvision("torchvision.models.segmentation")

NETWORKS = (
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
    "fcn_resnet50",
    "fcn_resnet101",
)


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_logits(name: str, tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    options = {} if name.startswith("lraspp") else {"aux_loss": True}
    theirs = randomize(getattr(segmentation, name)(weights=None, weights_backbone=None, **options))
    model = load(theirs, tmp_path / f"{name}.pth")
    image = torch.randn(1, 3, 65, 98)
    expected = theirs(image)
    for (ours, _), logits in zip(model.training_outputs(image), expected.values(), strict=True):
        check(ours, logits, record_property)
