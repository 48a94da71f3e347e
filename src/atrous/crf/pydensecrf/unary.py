"""Unary energies of the drop-in: `pydensecrf.densecrf.ConstUnary` and `LogisticUnary`, for `DenseCRF.setUnary`."""

from __future__ import annotations

from typing import Any

import numpy as np

from atrous.crf.validation import Array


class Unary:
    """Energies, minus log probabilities.

    Shape: `energies`: (nlabels, nvar) float32.
    """

    def __init__(self, energies: Any) -> None:
        self.energies: Array = np.asarray(energies, np.float32)


class ConstUnary(Unary):
    """Energies as they are given.

    Shape: `u`: (nlabels, nvar).
    """

    def __init__(self, u: Any) -> None:
        super().__init__(u)


class LogisticUnary(Unary):
    """Energies of a logistic regression, L f.

    Shape: `L`: (nlabels, features), `f`: (features, nvar).
    """

    def __init__(self, L: Any, f: Any) -> None:
        super().__init__(np.asarray(L, np.float32) @ np.asarray(f, np.float32))
