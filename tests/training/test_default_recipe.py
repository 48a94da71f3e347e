"""The recipe of a network by its id: corners are aligned as in its initial weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from atrous.card import Card, Preprocessing
from atrous.models import create_model
from atrous.training.default_recipe import default_recipe
from atrous.weights import save


@pytest.mark.parametrize("model_id", ["deeplab_v3.mobilenet_v2", "pspnet.mobilenet_v2"])
@pytest.mark.parametrize("align_corners", [True, False])
def test_corners_are_aligned_as_in_the_initial_weights(
    model_id: str, align_corners: bool, street: str, tmp_path: Path
) -> None:
    model = create_model(model_id, num_classes=1, width=0.0625, align_corners=align_corners)
    card = Card(
        model=model_id,
        arguments={"width": 0.0625},
        classes=("road",),
        colors=((0, 0, 0),),
        preprocessing=Preprocessing(),
        align_corners=align_corners,
    )
    file = save(model, tmp_path / "a.safetensors", card=card)
    stage = default_recipe(model_id, [street], (f"weights={file}",)).stages[0]
    assert create_model(model_id, **stage.model.options).align_corners == align_corners
    assert stage.preprocessing.grid == (16 if align_corners else None)


def test_corners_are_aligned_where_nothing_is_trained_yet(street: str) -> None:
    stage = default_recipe("deeplab_v3.mobilenet_v2", [street], ("weights=none",)).stages[0]
    assert stage.model.options == {"align_corners": True}
    assert default_recipe("unet.padded", [street]).stages[0].model.options == {}
