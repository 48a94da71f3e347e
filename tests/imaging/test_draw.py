from __future__ import annotations

import numpy as np

from atrous.imaging.draw import blend_labels


def test_classes_are_blended_and_ignored_pixels_hatched() -> None:
    image = np.full((16, 16, 3), 100, np.uint8)
    labels = np.zeros((16, 16), np.uint8)
    labels[8:] = 255
    painted = blend_labels(image, labels, [(200, 0, 0)], opacity=0.5)
    assert painted[0, 0].tolist() == [150, 50, 50]
    assert {tuple(pixel) for pixel in painted[10:].reshape(-1, 3).tolist()} == {(100, 100, 100), (255, 255, 255)}
