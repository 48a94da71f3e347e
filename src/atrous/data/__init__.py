"""Data sets: open them by name, augment and batch their samples, inspect them for errors, convert them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atrous.lazy import lazy_names

__all__ = ["Item", "MaskReader", "Sample", "SegmentationDataset", "list_datasets", "open_dataset", "read_image"]

if TYPE_CHECKING:
    from atrous.data.catalog import list_datasets, open_dataset
    from atrous.data.dataset import Item, Sample, SegmentationDataset
    from atrous.imaging.io import read_image
    from atrous.imaging.labels import MaskReader


__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Item": ".dataset",
        "MaskReader": "atrous.imaging.labels",
        "Sample": ".dataset",
        "SegmentationDataset": ".dataset",
        "list_datasets": ".catalog",
        "open_dataset": ".catalog",
        "read_image": "atrous.imaging.io",
    },
)
