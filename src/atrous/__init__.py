"""Semantic segmentation as the papers have it.

    >>> import atrous
    >>> segmenter = atrous.Segmenter.load("deeplab_v3_plus.efficientnet_lite0.camvid")
    >>> result = segmenter("street.jpg")
    >>> result.save("out/street.png")

Names resolve when first used, so `import atrous` costs nothing and torch is loaded only by what needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "create_model": "atrous.models",
    "list_models": "atrous.models",
    "load": "atrous.weights",
    "list_weights": "atrous.weights",
    "Segmenter": "atrous.inference",
    "Segmentation": "atrous.inference",
    "AtrousError": "atrous.errors",
}

__all__ = ["AtrousError", "Segmentation", "Segmenter", "create_model", "list_models", "list_weights", "load"]

if TYPE_CHECKING:
    from atrous.errors import AtrousError
    from atrous.inference import Segmentation, Segmenter
    from atrous.models import create_model, list_models
    from atrous.weights import list_weights, load


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'atrous' has no attribute '{name}'")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
