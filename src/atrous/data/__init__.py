"""Data sets: their classes, colours and layouts."""
