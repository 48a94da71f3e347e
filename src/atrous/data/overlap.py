"""Find the images of a data set that a network was trained on, whatever data sets they are in."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

from atrous.data.dataset import Item, SegmentationDataset
from atrous.errors import AtrousError

DIGEST_BYTES = 6
"""Bytes per image: few enough for a card to list a million images, enough for no two of them to be confused."""
NUM_NAMED = 3
"""Images that an error names."""


def image_digests(dataset: SegmentationDataset) -> frozenset[bytes]:
    """Compute the digests of a data set's images: of their ids, or of the bytes of files without an id."""
    with ThreadPoolExecutor() as pool:
        return frozenset(pool.map(_digest, dataset.items))


def pack_digests(digests: Collection[bytes]) -> str:
    """Write digests as text for the card of a network."""
    return base64.b64encode(b"".join(sorted(digests))).decode("ascii")


def unpack_digests(text: str) -> frozenset[bytes]:
    """Read digests from the card of a network.

    Raises: `AtrousError` for damaged text.
    """
    try:
        packed = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise AtrousError(
            f"The card's trained_images are damaged ({error}); expected base64. Load the original file."
        ) from error
    return frozenset(packed[start : start + DIGEST_BYTES] for start in range(0, len(packed), DIGEST_BYTES))


def check_not_trained_on(trained: Collection[bytes], dataset: SegmentationDataset, remedy: str) -> None:
    """Check that a data set has no images that were trained on; `remedy` tells how to evaluate on it all the same.

    Raises: `AtrousError` naming the first of them.
    """
    if not trained:
        return
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(_digest, dataset.items))
    names = [item.name for item, digest in zip(dataset.items, digests, strict=True) if digest in trained]
    if names:
        named = ", ".join(names[:NUM_NAMED]) + (", ..." if len(names) > NUM_NAMED else "")
        raise AtrousError(
            f"{dataset.name} {dataset.split}: {len(names):,} of its {len(dataset):,} images were trained on ({named}), "
            f"so results on it would be biased. Choose another split, or {remedy} to evaluate on it all the same."
        )


def _digest(item: Item) -> bytes:
    content = item.image_id.encode()
    if not content:
        try:
            content = item.image.read_bytes()
        except OSError:  # reported when the image is read
            content = os.fsencode(item.image)
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
