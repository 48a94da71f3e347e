"""A drop-in for pydensecrf: change the import lines of a script and nothing else.

    import atrous.crf.pydensecrf.densecrf as dcrf            # was: import pydensecrf.densecrf as dcrf
    from atrous.crf.pydensecrf.utils import unary_from_softmax

Read-only, non-contiguous and float64 arrays, which break the original, work. Every name of `densecrf` is also here, so
`import atrous.crf.pydensecrf as dcrf` will do.
"""

from atrous.crf.pydensecrf import densecrf, utils
from atrous.crf.pydensecrf.densecrf import (
    CONST_KERNEL,
    DIAG_KERNEL,
    FULL_KERNEL,
    NO_NORMALIZATION,
    NORMALIZE_AFTER,
    NORMALIZE_BEFORE,
    NORMALIZE_SYMMETRIC,
    DenseCRF,
    DenseCRF2D,
    KernelType,
    NormalizationType,
)

__all__ = [
    "CONST_KERNEL", "DIAG_KERNEL", "FULL_KERNEL", "NORMALIZE_AFTER", "NORMALIZE_BEFORE", "NORMALIZE_SYMMETRIC",
    "NO_NORMALIZATION", "DenseCRF", "DenseCRF2D", "KernelType", "NormalizationType", "densecrf", "utils",
]  # fmt: skip
