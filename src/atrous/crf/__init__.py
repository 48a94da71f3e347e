"""The fully connected CRF: exact to pydensecrf, fast without a compiler, differentiable, trainable.

    >>> from atrous.crf import dense_crf
    >>> refined = dense_crf(image, probabilities, crf="v2")   # uint8 (H, W, 3), float (K, H, W)

`atrous.crf.pydensecrf` is a drop-in for scripts written for pydensecrf. Importing this package loads neither numba nor
torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

# Imported here and not lazily: `dense_crf` is a function and also the submodule that defines it, and importing the
# submodule later would bind the name to the module.
from atrous.crf.dense_crf import DenseCRF, MeanFieldOptions, dense_crf
from atrous.crf.kernels import (
    Bilateral,
    Features,
    Gaussian,
    MatrixCompatibility,
    Normalization,
    PottsCompatibility,
)
from atrous.crf.presets import PRESETS, CRFPreset, get_preset
from atrous.crf.unary import probabilities_from_labels
from atrous.lazy import lazy_names

__all__ = [
    "CRFRNN", "PRESETS", "Bilateral", "CRFPreset", "DenseCRF", "Features", "Gaussian", "Lattice",
    "MatrixCompatibility", "MeanFieldOptions", "Normalization", "PottsCompatibility", "TorchLattice", "dense_crf",
    "get_preset", "permutohedral_filter", "probabilities_from_labels",
]  # fmt: skip

if TYPE_CHECKING:
    from atrous.crf.crf_rnn import CRFRNN
    from atrous.crf.numba_backend.lattice import Lattice
    from atrous.crf.torch_backend.lattice import TorchLattice, permutohedral_filter


__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "CRFRNN": ".crf_rnn",
        "Lattice": ".numba_backend.lattice",
        "TorchLattice": ".torch_backend.lattice",
        "permutohedral_filter": ".torch_backend.lattice",
    },
)
