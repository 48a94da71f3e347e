"""The fully connected CRF: exact to pydensecrf, fast without a compiler, differentiable, trainable.

    >>> from atrous.crf import dense_crf
    >>> refined = dense_crf(image, probabilities, preset="v2")   # uint8 (H, W, 3), float (K, H, W)

`atrous.crf.pydensecrf` is a drop-in for scripts written for pydensecrf. Names resolve when first used, so importing
this package loads neither numba nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atrous.crf.dense_crf import DenseCRF, InferenceOptions, dense_crf, dense_crf_labels
from atrous.crf.kernels import PRESETS, Bilateral, Features, Gaussian, Preset, preset
from atrous.crf.numba_backend.lattice import Lattice, Normalization
from atrous.lazy import lazy_names

__all__ = [
    "CRFRNN", "PRESETS", "Bilateral", "DenseCRF", "Features", "Gaussian", "InferenceOptions", "Lattice",
    "Normalization", "Preset", "TorchLattice", "dense_crf", "dense_crf_labels", "permutohedral_filter", "preset",
    "probabilities_from_labels",
]  # fmt: skip

if TYPE_CHECKING:
    from atrous.crf.crf_rnn import CRFRNN
    from atrous.crf.torch_backend.lattice import TorchLattice, permutohedral_filter
    from atrous.crf.unary import probabilities_from_labels


__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "CRFRNN": ".crf_rnn",
        "TorchLattice": ".torch_backend.lattice",
        "permutohedral_filter": ".torch_backend.lattice",
        "probabilities_from_labels": ".unary",
    },
)
