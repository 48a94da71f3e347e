"""Errors for invalid input: the message names the axis or value, what was found and what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from atrous.crf import CRFPreset, Features, Gaussian, dense_crf
from atrous.errors import AtrousError
from tests.crf.crf_samples import random_image, random_probabilities

IMAGE, P = random_image(6, 8), random_probabilities(4, 6, 8)


def spoiled(value: float) -> np.ndarray:
    p = P.copy()
    p[2, 3, 5] = value
    return p


@pytest.mark.parametrize(
    ("image", "probabilities", "message"),
    [
        (
            IMAGE.transpose(1, 0, 2),
            P,
            "8 high and 6 wide, the class maps 6 high and 8 wide .height and width are swapped",
        ),
        (random_image(7, 8), P, "7 high and 8 wide, the class maps 6 high and 8 wide; they must be the same"),
        (IMAGE, P.transpose(1, 2, 0), "sum to 1 over axis 0, the classes, but .* they do over axis 2: move that axis"),
        (IMAGE, P * 0.5, "sum to 0.5 at row"),
        (IMAGE, np.log(P), "probabilities lie in .* apply a softmax to logits over axis 0"),
        (IMAGE, spoiled(np.nan), "NaN, the first at class 2, row 3, column 5"),
        (IMAGE, spoiled(-0.5), "probabilities lie in -0.5"),
        (IMAGE, spoiled(np.inf), "probabilities lie in"),
        (IMAGE, (P * 255).astype(np.uint8), "probabilities is uint8, expected floating point"),
        (IMAGE, P[0], r"shape \(6, 8\), expected \(K, H, W\)"),
        (IMAGE, P[:, :0], r"shape \(4, 0, 8\), length 0 on axis 1"),
        (IMAGE, P[:0], "length 0 on axis 0"),
        (IMAGE / 255, P, "image is float64, expected uint8 in 0..255"),
        (IMAGE[..., :2], P, r"image has shape \(6, 8, 2\), expected \(H, W, 3\)"),
        (IMAGE[:0], P, "side of length 0"),
        (IMAGE[..., 0], P, r"image has shape \(6, 8\)"),
        (IMAGE, np.stack([P, P]), "batch of shape"),
        (np.stack([IMAGE] * 3), np.stack([P, P]), r"batch of shape \(2, 4, 6, 8\), the image has shape \(3, 6, 8, 3\)"),
        (IMAGE, torch.from_numpy(P).requires_grad_(), "carries a gradient.*detach"),
    ],
)
def test_bad_arrays(image: Any, probabilities: Any, message: str) -> None:
    with pytest.raises(AtrousError, match=message):
        dense_crf(image, probabilities)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crf": "v2_resnt"}, "No CRF preset 'v2_resnt'.*Did you mean 'v2_resnet'"),
        ({"iterations": -1}, "iterations is -1"),
        ({"prune": 1.5}, "prune is 1.5"),
        ({"tolerance": -1.0}, "tolerance is -1.0"),
        ({"backend": "cuda"}, "backend is 'cuda', expected 'auto', 'numba' or 'torch'"),
        ({"output": "logits"}, "output is 'logits', expected 'probabilities' or 'labels'"),
        ({"ignore": np.zeros((6, 8))}, r"ignore is float64 of shape \(6, 8\), expected bool"),
        ({"ignore": np.zeros((8, 6), bool)}, r"expected bool of shape \(6, 8\)"),
        ({"crf": CRFPreset(Gaussian(w=[1.0, 2.0]))}, "w has 2 values, the probabilities 4 classes"),
        ({"crf": CRFPreset(Gaussian(compatibility=np.eye(3)))}, r"compatibility is \(3, 3\), expected \(4, 4\)"),
        ({"crf": CRFPreset(Gaussian(compatibility=np.eye(4))), "prune": 0.1}, "cannot be pruned under a full compat"),
        (
            {"crf": CRFPreset(features=(Features(np.zeros((2, 5))),))},
            "features are of 5 points, the image has 48 pixels",
        ),
        ({"energies": P}, "either probabilities or energies, found both"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AtrousError, match=message):
        dense_crf(IMAGE, P, **options)


def test_energies_cannot_be_pruned() -> None:
    with pytest.raises(AtrousError, match="threshold on probabilities"):
        dense_crf(IMAGE, energies=P, prune=0.1)


def test_three_by_three_images_are_never_guessed() -> None:
    """(3, 3, 3) reads as (H, W, 3); of (3, H, 3) the probabilities' size tells which layout is meant."""
    image, p = random_image(9, 3).transpose(2, 0, 1), random_probabilities(2, 9, 3)
    found = dense_crf(image, p)
    np.testing.assert_array_equal(found, dense_crf(np.ascontiguousarray(image.transpose(1, 2, 0)), p))
