"""Data sets: their classes, colours and layouts; masks, transforms, and a look at what is wrong with them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_WHERE = {
    "Item": "atrous.data.dataset",
    "MaskReader": "atrous.data.labels",
    "Sample": "atrous.data.dataset",
    "SegmentationDataset": "atrous.data.dataset",
    "list_datasets": "atrous.data.catalog",
    "open_dataset": "atrous.data.catalog",
    "read_image": "atrous.data.images",
}
__all__ = ["Item", "MaskReader", "Sample", "SegmentationDataset", "list_datasets", "open_dataset", "read_image"]

if TYPE_CHECKING:
    from atrous.data.catalog import list_datasets, open_dataset
    from atrous.data.dataset import Item, Sample, SegmentationDataset
    from atrous.data.images import read_image
    from atrous.data.labels import MaskReader


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'atrous.data' has no attribute '{name}'")
    return getattr(import_module(_WHERE[name]), name)
