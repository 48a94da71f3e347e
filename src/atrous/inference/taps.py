"""The samples and weights of linear interpolation along an axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Taps:
    """Linear interpolation along one axis: for each output sample two input samples, and the weight of the second.

    The weights are those of `F.interpolate`, rounded to float32 where it rounds, so that both agree to the last bits.

    Shape: each (n,).
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    weight: NDArray[np.float32]

    @classmethod
    def linear(cls, source: int, target: int, *, align_corners: bool) -> Taps:
        """Compute the taps that resize `source` samples to `target` samples."""
        index = np.arange(target, dtype=np.float32)
        if align_corners:
            position = index * np.float32((source - 1) / (target - 1) if target > 1 else 0)
        else:
            position = np.maximum((index + np.float32(0.5)) * np.float32(source / target) - np.float32(0.5), 0)
        return cls.at(position, source)

    @classmethod
    def at(cls, position: NDArray[np.float32], source: int) -> Taps:
        """Compute the taps at some positions, 0 or more, between `source` samples."""
        first = np.minimum(position.astype(np.int64), source - 1)
        weight = np.clip(position - first.astype(np.float32), 0, 1).astype(np.float32)
        return cls(first, np.minimum(first + 1, source - 1), weight)

    def __getitem__(self, part: slice | NDArray[np.int64]) -> Taps:
        return Taps(self.first[part], self.second[part], self.weight[part])

    def __len__(self) -> int:
        return len(self.first)
