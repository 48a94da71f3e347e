"""Read the card and the checksum of weights from the header of their file, without their tensors and without torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from atrous.card import Card
from atrous.errors import AtrousError
from atrous.weights.find import find_weights
from atrous.weights.importers import import_file
from atrous.weights.importers.formats import is_safetensors
from atrous.weights.tensors import damaged_file_error


@dataclass(frozen=True)
class Header:
    """The metadata of a safetensors file that atrous saved."""

    card: Card
    digest: str | None
    """The SHA-256 of the tensors when they were saved, see `digest_tensors`; None in files of early versions."""


def read_card(source: str | os.PathLike[str]) -> Card:
    """Read the card of weights by id or from a file, without loading the tensors of a safetensors file.

    Raises: `AtrousError` as `load` does.
    """
    path = find_weights(source)
    return read_header(path).card if has_card(path) else import_file(path)[1]


def has_card(path: Path) -> bool:
    """Tell whether a file is a safetensors file with a card, as atrous saves them, by its content.

    Raises: `AtrousError` for a damaged safetensors file.
    """
    return is_safetensors(path) and "atrous" in _read_metadata(path)


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file.

    Raises: `AtrousError` for a damaged file, and one without a card.
    """
    metadata = _read_metadata(path)
    if "atrous" not in metadata:
        raise AtrousError(
            f"{path}: this file has no card, so its network and classes are unknown; it was not saved by atrous. "
            "Import the original file with `atrous import-weights`."
        )
    return Header(Card.read(metadata["atrous"], str(path)), metadata.get("atrous_sha256"))


def _read_metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "np") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise damaged_file_error(path, str(error)) from error


def digest_file(path: Path) -> str:
    """Compute the SHA-256 of the tensors in a safetensors file: that of the header, if the file is undamaged.

    Raises: `AtrousError` for a damaged file.
    """
    _read_metadata(path)  # checks that the tensors lie within the file
    data = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    entries = json.loads(data[8:start].tobytes())
    offsets = {key: entry["data_offsets"] for key, entry in entries.items() if key != "__metadata__"}
    return digest_tensors({key: data[start + first : start + end] for key, (first, end) in offsets.items()})


def digest_tensors(tensors: Mapping[str, NDArray[np.uint8]]) -> str:
    """Compute the SHA-256 of the names and bytes of tensors, in the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode())
        digest.update(tensors[key].data)
    return digest.hexdigest()
