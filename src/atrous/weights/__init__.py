"""Save, find, download and load weights."""

from atrous.weights.store import list_weights, load, read_card, resolve, rewrite_card, save

__all__ = [
    "list_weights",
    "load",
    "read_card",
    "resolve",
    "rewrite_card",
    "save",
]
