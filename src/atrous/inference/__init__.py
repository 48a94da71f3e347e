"""Images in, segmentations out."""

from atrous.imaging.io import read_image
from atrous.inference.segmenter import Segmentation, Segmenter

__all__ = ["Segmentation", "Segmenter", "read_image"]
