"""Initialization from weights of other classes, and of backbones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from atrous import AtrousError, create_model
from atrous.training.initialize import initialize_backbone
from tests.training.conftest import tiny_model


def test_a_backbone_of_another_kind_is_refused(tmp_path: Path) -> None:
    torch.save(create_model("unet.padded", width=0.125).state_dict(), tmp_path / "unet.pth")
    with pytest.raises(AtrousError, match="not the weights of MobileNetV2"):
        initialize_backbone(tiny_model(), str(tmp_path / "unet.pth"))
    with pytest.raises(AtrousError, match="no such file"):
        initialize_backbone(tiny_model(), "nowhere.pth")
