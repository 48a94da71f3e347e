"""An index of finished items beside the results: small, written atomically, and read when a job starts again."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterable
from pathlib import PurePath

from atrous.marks import Mark
from atrous.scale.storage import Storage

FOLDER = "_atrous"
"""The folder of the index and the report, below that of the results."""
KEY_LENGTH = 16
"""The number of hexadecimal digits of a key: among a million items, two agree with a probability of 3e-8."""
PART_KEYS = 2**16
"""The number of keys in a file of the index; a full file has 1.1 MB."""
FLUSH_SECONDS = 5.0
"""The time between two writes of the index. What was finished since the last one is recognized by its mark."""


def digest_key(path: PurePath, mark: Mark) -> str:
    """Compute the key of a result from its path and its mark, which depends on source and settings."""
    return hashlib.sha256(f"{path.as_posix()} {mark}".encode("utf-8", "surrogateescape")).hexdigest()[:KEY_LENGTH]


class DoneIndex:
    """The keys of finished items, in files of `_atrous/done-*.txt` with a line for each key.

    Only the process that started the job writes to it. Each write replaces the newest file by a longer one, so that
    object stores, which cannot append, hold a few files for a million items, and each of them is complete. Every job
    has files of its own: two jobs with the same results do not remove the keys of each other.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._run = f"{time.time_ns():x}-{secrets.token_hex(2)}"
        self._number = 0
        self._part: list[str] = []
        self._unwritten = 0
        self._last_flush = time.monotonic()

    def load(self, files: Iterable[str]) -> set[str]:
        """Read the keys of all earlier jobs; `files` are the paths of everything beside the index, and of the index.

        Raises: `AtrousError` if they cannot be read.
        """
        keys: set[str] = set()
        for path in files:
            if path.startswith(f"{FOLDER}/done-"):
                keys.update(self._storage.read(path).decode("ascii", "replace").split())
        return {key for key in keys if len(key) == KEY_LENGTH}

    def add(self, key: str) -> None:
        """Add a finished item; written at the latest after `FLUSH_SECONDS`, or by `flush`.

        Raises: `AtrousError` if the index cannot be written.
        """
        self._part.append(key)
        self._unwritten += 1
        if time.monotonic() - self._last_flush > FLUSH_SECONDS or len(self._part) >= PART_KEYS:
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last time.

        Raises: `AtrousError` if the index cannot be written.
        """
        if self._unwritten:
            content = "".join(f"{key}\n" for key in self._part).encode("ascii")
            self._storage.write(f"{FOLDER}/done-{self._run}-{self._number:04}.txt", content)
            self._unwritten = 0
        if len(self._part) >= PART_KEYS:
            self._part = []
            self._number += 1
        self._last_flush = time.monotonic()
