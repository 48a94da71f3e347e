"""A drop-in for pydensecrf: change the import lines of a script and nothing else.

    import atrous.crf.pydensecrf.densecrf as dcrf            # was: import pydensecrf.densecrf as dcrf
    from atrous.crf.pydensecrf.utils import unary_from_softmax

Read-only and non-contiguous arrays and energies of float64, which break the original, work. Every name of `densecrf` is
also here, so `import atrous.crf.pydensecrf as dcrf` will do.
"""

from atrous.crf.pydensecrf import densecrf, eigen, pairwise, unary, utils
from atrous.crf.pydensecrf.densecrf import (
    CONST_KERNEL,
    DIAG_KERNEL,
    FULL_KERNEL,
    NO_NORMALIZATION,
    NORMALIZE_AFTER,
    NORMALIZE_BEFORE,
    NORMALIZE_SYMMETRIC,
    ConstUnary,
    DenseCRF,
    DenseCRF2D,
    KernelType,
    LogisticUnary,
    NormalizationType,
    Unary,
)

__all__ = [
    "CONST_KERNEL", "DIAG_KERNEL", "FULL_KERNEL", "NORMALIZE_AFTER", "NORMALIZE_BEFORE", "NORMALIZE_SYMMETRIC",
    "NO_NORMALIZATION", "ConstUnary", "DenseCRF", "DenseCRF2D", "KernelType", "LogisticUnary", "NormalizationType",
    "Unary", "densecrf", "eigen", "pairwise", "unary", "utils",
]  # fmt: skip
