"""Save, find, download and load the weights of segmentation networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atrous.lazy import lazy_names

__all__ = [
    "create_backbone",
    "create_model",
    "find_weights",
    "list_weights",
    "load",
    "read_card",
    "save",
    "write_card",
]

if TYPE_CHECKING:
    from atrous.weights.find import find_weights, list_weights
    from atrous.weights.header import read_card
    from atrous.weights.pretrained import create_backbone, create_model
    from atrous.weights.store import load, save, write_card

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "create_backbone": ".pretrained",
        "create_model": ".pretrained",
        "find_weights": ".find",
        "list_weights": ".find",
        "load": ".store",
        "read_card": ".header",
        "save": ".store",
        "write_card": ".store",
    },
)
