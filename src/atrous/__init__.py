"""Semantic segmentation as the papers have it.

    >>> import atrous
    >>> segmenter = atrous.Segmenter.load("deeplab_v3_plus.efficientnet_lite0.camvid")
    >>> result = segmenter("street.jpg")
    >>> result.save("out/street.png")

Names resolve when first used, so `import atrous` costs nothing and torch is loaded only by what needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atrous.lazy import lazy_names

__version__ = "0.1.0"

__all__ = ["AtrousError", "Segmentation", "Segmenter", "create_model", "list_models", "list_weights", "load"]

if TYPE_CHECKING:
    from atrous.errors import AtrousError
    from atrous.inference import Segmentation, Segmenter
    from atrous.models import create_model, list_models
    from atrous.weights import list_weights, load


__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AtrousError": ".errors",
        "Segmentation": ".inference",
        "Segmenter": ".inference",
        "create_model": ".models",
        "list_models": ".models",
        "list_weights": ".weights",
        "load": ".weights",
    },
)
