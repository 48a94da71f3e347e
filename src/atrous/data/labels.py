"""Label maps: classes as pixels, colours and files."""

from __future__ import annotations

from typing import TypeAlias

Colour: TypeAlias = tuple[int, int, int]


def bit_colours(count: int) -> tuple[Colour, ...]:
    """The colour map of PASCAL VOC, for any number of classes: the bits of the label spread over red, green and blue.

    Source: `VOClabelcolormap.m` of the VOC development kit.
    """

    def colour(label: int) -> Colour:
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= (label >> (3 * bit + channel) & 1) << (7 - bit)
        return channels[0], channels[1], channels[2]

    return tuple(colour(label) for label in range(count))
