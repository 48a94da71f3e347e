"""The fully connected CRF: exact to pydensecrf, fast without a compiler, differentiable, trainable.

    >>> from atrous.crf import dense_crf
    >>> refined = dense_crf(image, probabilities, preset="v2")   # uint8 (H, W, 3), float (K, H, W)

`atrous.crf.pydensecrf` is a drop-in for scripts written for pydensecrf. Names resolve when first used, so importing
this package loads neither numba nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_WHERE = {
    "CRFRNN": "rnn",
    "Bilateral": "parameters",
    "DenseCRF": "mean_field",
    "Features": "parameters",
    "Gaussian": "parameters",
    "InferenceOptions": "mean_field",
    "Lattice": "lattice",
    "Normalization": "lattice",
    "PRESETS": "parameters",
    "Preset": "parameters",
    "TorchLattice": "lattice_torch",
    "dense_crf": "mean_field",
    "dense_crf_labels": "mean_field",
    "permutohedral_filter": "lattice_torch",
    "preset": "parameters",
    "probabilities_from_labels": "unary",
}

__all__ = [
    "CRFRNN", "PRESETS", "Bilateral", "DenseCRF", "Features", "Gaussian", "InferenceOptions", "Lattice",
    "Normalization", "Preset", "TorchLattice", "dense_crf", "dense_crf_labels", "permutohedral_filter", "preset",
    "probabilities_from_labels",
]  # fmt: skip

if TYPE_CHECKING:
    from atrous.crf.lattice import Lattice, Normalization
    from atrous.crf.lattice_torch import TorchLattice, permutohedral_filter
    from atrous.crf.mean_field import DenseCRF, InferenceOptions, dense_crf, dense_crf_labels
    from atrous.crf.parameters import PRESETS, Bilateral, Features, Gaussian, Preset, preset
    from atrous.crf.rnn import CRFRNN
    from atrous.crf.unary import probabilities_from_labels


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'atrous.crf' has no attribute '{name}'")
    return getattr(import_module(f"atrous.crf.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
