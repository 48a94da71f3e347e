"""File formats of segmentations: one table of encoders for the library, the command line and the server."""

from __future__ import annotations

from collections.abc import Sequence

from atrous.errors import AtrousError, did_you_mean
from atrous.inference.formats.coco import encode_coco
from atrous.inference.formats.format import Format, FormatOptions, Segmented
from atrous.inference.formats.geojson import encode_geojson
from atrous.inference.formats.labelme import encode_labelme
from atrous.inference.formats.raster import encode_overlay, encode_palette_png, encode_probability_maps

__all__ = ["FORMATS", "Format", "FormatOptions", "Segmented", "get_format", "parse_formats"]

FORMATS: dict[str, Format] = {
    item.name: item
    for item in (
        Format("png", ".png", "image/png", "labels as palette PNG", encode_palette_png),
        Format("overlay", "_overlay.png", "image/png", "classes painted over the image", encode_overlay),
        Format(
            "npz",
            ".npz",
            "application/x-npz",
            "class probabilities as 16-bit floats",
            encode_probability_maps,
            needs_probabilities=True,
        ),
        Format("coco", ".coco.json", "application/json", "COCO annotations, run lengths or polygons", encode_coco),
        Format("geojson", ".geojson", "application/geo+json", "polygons with holes", encode_geojson),
        Format("labelme", ".json", "application/json", "polygons to be corrected in labelme", encode_labelme),
    )
}
"""All formats by name."""


def get_format(name: str) -> Format:
    """Find a format by its name.

    Raises: `AtrousError` for an unknown name.
    """
    if name not in FORMATS:
        raise AtrousError(f"Unknown format '{name}': expected {', '.join(FORMATS)}.{did_you_mean(name, FORMATS)}")
    return FORMATS[name]


def parse_formats(text: str, others: Sequence[str] = ()) -> tuple[str, ...]:
    """Split a list of format names such as `png,overlay,coco`; repeated names count once.

    `others` are names that are allowed besides.

    Raises: `AtrousError` for an unknown name or an empty list.
    """
    names: Sequence[str] = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise AtrousError(f"The list of formats is empty: name one or more of {', '.join(FORMATS)}.")
    return tuple(dict.fromkeys(name if name in others else get_format(name).name for name in names))
