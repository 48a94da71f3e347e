"""Xception: the feature maps that the decoder of DeepLab v3+ uses."""

from __future__ import annotations

import pytest
import torch

from atrous.backbones import create_backbone


@pytest.mark.parametrize("name", ["xception41", "xception65", "xception71"])
def test_xceptions_low_level_map_has_256_channels_at_stride_4(name: str) -> None:
    with torch.device("meta"):
        backbone = create_backbone(name).eval()
    maps = backbone(torch.empty(1, 3, 513, 513, device="meta"))
    assert [tuple(m.shape[1:]) for m in maps] == [(256, 129, 129), (728, 65, 65), (1024, 33, 33), (2048, 17, 17)]
