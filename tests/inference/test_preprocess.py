from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrous import Segmenter
from atrous.card import Preprocessing
from atrous.inference.preprocess import preprocess, preprocessed_size
from tests.inference.networks import ChannelNetwork, quadrants, rgb_card


@pytest.mark.parametrize(
    ("options", "network_size"),
    [
        ({}, (60, 80)),
        ({"resize": "squeeze", "size": (33, 33)}, (33, 33)),
        ({"resize": "pad", "size": (100, 90)}, (100, 90)),
        ({"resize": "pad", "size": (40, 40)}, (40, 40)),
        ({"resize": "shorter_side", "size": (30, 30)}, (30, 40)),
        ({"resize": "shorter_side", "size": (30, 30), "grid": 16}, (33, 33)),
        ({"resize": "shorter_side", "size": (30, 30), "grid": 8}, (33, 41)),
        ({"grid": 16}, (65, 81)),
        ({"grid": 32}, (65, 97)),
    ],
)
def test_labels_match_the_image_whatever_the_resize(options: dict, network_size: tuple[int, int]) -> None:
    model = ChannelNetwork()
    result = Segmenter(model, rgb_card(**options), device="cpu")(quadrants(60, 80))
    assert model.inputs[-1].shape[-2:] == network_size
    assert result.labels.shape == (60, 80)
    assert result.labels.dtype == np.uint8
    truth = quadrants(60, 80).argmax(2)
    away = np.ones((60, 80), bool)
    away[:, 37:43] = False
    away[27:33] = False
    assert (result.labels == truth)[away].all()
    assert (result.labels == truth).mean() > 0.95


def test_weights_for_bgr_get_bgr() -> None:
    model = ChannelNetwork()
    Segmenter(model, rgb_card(channel_order="BGR"), device="cpu")(quadrants(8, 8))
    assert model.inputs[-1][0, 2, 0, 0] > 0.9  # red comes last


def test_padding_holds_the_mean() -> None:
    options = Preprocessing(resize="pad", size=(6, 7), mean=(10, 20, 30), std=(2, 2, 2))
    planes, content = preprocess(np.full((4, 5, 3), 50, np.uint8), options)
    assert content == (4, 5)
    assert preprocessed_size((4, 5), options) == (6, 7)
    assert planes.shape == (3, 6, 7)
    assert planes.dtype == np.float32
    assert planes[:, 0, 0].tolist() == [20.0, 15.0, 10.0]
    assert (planes[:, 4:] == 0).all()
    assert (planes[:, :, 5:] == 0).all()


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    mode=st.sampled_from(["keep", "squeeze", "pad", "shorter_side"]),
    target=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    grid=st.sampled_from([None, 8, 16]),
)
def test_any_size_with_any_resize(
    height: int, width: int, mode: str, target: tuple[int, int], grid: int | None
) -> None:
    if mode == "shorter_side" and max(height, width) / min(height, width) * min(target) > 500:
        return
    options = {} if mode == "keep" else {"resize": mode, "size": target}
    if mode in ("keep", "shorter_side"):
        options["grid"] = grid
    model = ChannelNetwork()
    result = Segmenter(model, rgb_card(**options), device="cpu")(quadrants(height, width))
    assert result.labels.shape == (height, width)
    if options.get("grid"):
        assert [side % grid for side in model.inputs[-1].shape[-2:]] == [1, 1]
