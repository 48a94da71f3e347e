"""Inference: segment images and videos with a network and its card; test-time augmentation, tiling, prefetching."""

from atrous.imaging.io import read_image
from atrous.inference.segmentation import Segmentation
from atrous.inference.segmenter import Segmenter
from atrous.inference.tta import TTAConfig

__all__ = ["Segmentation", "Segmenter", "TTAConfig", "read_image"]
