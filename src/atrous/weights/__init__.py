"""Weights, and the cards that travel with them."""
