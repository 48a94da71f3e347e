"""Made-up images and probabilities for the tests of this folder."""

from __future__ import annotations

import numpy as np


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth blobs of color with a little noise, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(2, 9) + rng.uniform(0, 6)) + np.cos(y / rng.uniform(2, 9)) for _ in range(3)]
    return np.clip(128 + 50 * np.stack(waves, -1) + rng.normal(0, 4, (height, width, 3)), 0, 255).astype(np.uint8)


def random_probabilities(classes: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Soft-max of noise, float32 (classes, height, width)."""
    logits = np.random.default_rng(seed).normal(0, 1.5, (classes, height, width))
    powers = np.exp(logits)
    return (powers / powers.sum(0)).astype(np.float32)
