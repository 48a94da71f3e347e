"""Weights, and the cards that travel with them."""

from atrous.weights.card import Card, Measurement, Preprocessing
from atrous.weights.store import list_weights, load, read_card, resolve, rewrite_card, save

__all__ = [
    "Card",
    "Measurement",
    "Preprocessing",
    "list_weights",
    "load",
    "read_card",
    "resolve",
    "rewrite_card",
    "save",
]
