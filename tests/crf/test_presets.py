"""CRFs of the papers, and your own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from atrous.crf import PRESETS, Bilateral, CRFPreset, Features, Gaussian, Normalization, dense_crf, get_preset
from atrous.errors import AtrousError
from tests.crf.crf_samples import random_image, random_probabilities


def test_presets() -> None:
    assert set(PRESETS) == {
        "v1", "v2", "v2_resnet", "crf_rnn", "krahenbuhl", "v1_released", "v2_released", "v2_resnet_released",
    }  # fmt: skip
    assert get_preset("v1") == PRESETS["v1"]
    assert (get_preset("krahenbuhl").iterations, get_preset("v2").iterations) == (5, 10)


def test_a_preset_by_name_and_as_an_object() -> None:
    image, p = random_image(8, 11), random_probabilities(4, 8, 11)
    expected = dense_crf(image, p, CRFPreset(Gaussian(3, 3), Bilateral(10, 80, 13)), iterations=5)
    np.testing.assert_array_equal(dense_crf(image, p, crf="krahenbuhl"), expected)
    np.testing.assert_array_equal(dense_crf(image, p, crf=PRESETS["krahenbuhl"]), expected)
    fewer = replace(PRESETS["krahenbuhl"], iterations=2)
    np.testing.assert_array_equal(dense_crf(image, p, fewer), dense_crf(image, p, "krahenbuhl", iterations=2))
    assert get_preset(fewer) is fewer


@pytest.mark.parametrize(
    ("name", "w2", "sigma_gamma", "bilateral"),
    [("v1", 3, 3, (5, 50, 10)), ("v2", 3, 3, (4, 49, 5)), ("v2_resnet", 4, 1, (5, 21, 3))],
)
def test_released_presets_normalize_after_filtering(
    name: str, w2: float, sigma_gamma: float, bilateral: tuple[float, float, float]
) -> None:
    image, p = random_image(8, 11), random_probabilities(4, 8, 11)
    gaussian = Gaussian(w2, sigma_gamma, normalization=Normalization.AFTER)
    expected = dense_crf(image, p, CRFPreset(gaussian, Bilateral(*bilateral, normalization=Normalization.AFTER)))
    released = dense_crf(image, p, f"{name}_released")
    np.testing.assert_array_equal(released, expected)
    assert np.abs(released - dense_crf(image, p, name)).max() > 0.01


def test_terms_left_out() -> None:
    assert CRFPreset().terms == ()
    features = Features(np.zeros((2, 3)))
    assert CRFPreset(bilateral=Bilateral(), features=(features,)).terms == (Bilateral(), features)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: get_preset("v9"), "No CRF preset 'v9'"),
        (lambda: get_preset("v2_resnt"), "Did you mean 'v2_resnet'"),
        (lambda: get_preset(Gaussian()), r"expected CRFPreset\(...\) or a name: v1, v2"),
        (lambda: CRFPreset(3), "gaussian is 3, expected Gaussian"),  # type: ignore[arg-type]
        (lambda: CRFPreset(bilateral=Gaussian()), "expected Bilateral"),  # type: ignore[arg-type]
        (lambda: CRFPreset(features=Features(np.zeros((2, 5)))), "expected a tuple of Features"),  # type: ignore[arg-type]
    ],
)
def test_bad_presets(build: Any, message: str) -> None:
    with pytest.raises(AtrousError, match=message):
        build()
