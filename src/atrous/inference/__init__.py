"""Inference: segment images and videos with a network and its card; test-time augmentation, tiling, prefetching."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atrous.lazy import lazy_names

__all__ = ["Segmentation", "Segmenter", "TTAConfig", "read_image", "set_max_pixels"]

if TYPE_CHECKING:
    from atrous.imaging.io import read_image
    from atrous.imaging.pixel_limit import set_max_pixels
    from atrous.inference.segmentation import Segmentation
    from atrous.inference.segmenter import Segmenter
    from atrous.inference.tta import TTAConfig

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Segmentation": ".segmentation",
        "Segmenter": ".segmenter",
        "TTAConfig": ".tta",
        "read_image": "atrous.imaging.io",
        "set_max_pixels": "atrous.imaging.pixel_limit",
    },
)
