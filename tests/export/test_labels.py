"""A file with preprocessing, resizing and arg-max inside gives the labels that `Segmenter` gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atrous import AtrousError, Segmenter
from atrous.export import export_model
from atrous.export.labels import LabelModule, resize_by_weights
from atrous.imaging.io import Pixels, resize_image
from tests.export.networks import small_network

PREPROCESSING: dict[str, dict[str, Any]] = {
    "keep": {},
    "grid": {"grid": 4},
    "squeeze": {"resize": "squeeze", "size": (65, 81)},
    "pad": {"resize": "pad", "size": (97, 113)},
    "shorter_side": {"resize": "shorter_side", "size": (64, 64), "grid": 4},
    "bgr": {"channel_order": "BGR"},
}


def smooth_image(height: int, width: int) -> Pixels:
    """An image of soft blobs, on which few pixels lie between two classes."""
    generator = np.random.default_rng(3)
    return resize_image(generator.integers(0, 256, (6, 7, 3), np.uint8), height, width)


@pytest.mark.parametrize("kind", PREPROCESSING)
@pytest.mark.parametrize("size", [(60, 50), (131, 90), (200, 301)])
@torch.inference_mode()
def test_labels_equal_those_of_the_segmenter(kind: str, size: tuple[int, int]) -> None:
    network = small_network(**PREPROCESSING[kind])
    image = smooth_image(*size)
    expected = Segmenter(network, device="cpu")(image).labels
    assert len(np.unique(expected)) > 1
    labels = LabelModule(network, network.card.preprocessing, size)(torch.from_numpy(image)[None])[0].numpy()
    assert labels.dtype == np.uint8
    assert (labels == expected).mean() > (0.995 if "size" in PREPROCESSING[kind] else 0.9999)


@pytest.mark.parametrize("target", [(33, 37), (70, 30), (20, 90), (50, 60)])
def test_images_are_resized_as_opencv_does(target: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    sides, content = (torch.tensor(each, dtype=torch.float64) for each in ((50, 60), target))
    resized = resize_by_weights(torch.from_numpy(image).permute(2, 0, 1)[None].float(), sides, target, content)
    assert np.abs(resized[0].permute(1, 2, 0).numpy() - resize_image(image, *target)).max() < 1


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_an_exported_file_gives_labels_of_images_of_any_size(suffix: str, tmp_path: Path) -> None:
    report = export_model(small_network(resize="pad", size=(129, 129)), tmp_path / f"a{suffix}", labels=True)
    assert report.largest_difference < 1e-4
    assert len({each.size for each in report.differences}) == 3


def test_resizing_by_the_shorter_side_needs_a_size(tmp_path: Path) -> None:
    network = small_network(**PREPROCESSING["shorter_side"])
    with pytest.raises(AtrousError, match="--labels needs --size"):
        export_model(network, tmp_path / "a.onnx", labels=True)
    assert export_model(network, tmp_path / "a.pt2", labels=True, size=(50, 70)).largest_difference < 1e-4
