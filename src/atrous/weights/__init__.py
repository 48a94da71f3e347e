"""Save, find, download and load the weights of segmentation networks."""

from atrous.weights.store import find_weights, list_weights, load, read_card, save, write_card

__all__ = [
    "find_weights",
    "list_weights",
    "load",
    "read_card",
    "save",
    "write_card",
]
