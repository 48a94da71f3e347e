"""An index of finished items beside the results: small, written atomically, and read when a job starts again."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterable
from pathlib import PurePath

from atrous.marks import Mark
from atrous.scale.storage import Storage, StoredFile

FOLDER = "_atrous"
"""The folder of the index and the report, below that of the results."""
KEY_LENGTH = 16
"""The number of hexadecimal digits of a key: among a million items, two agree with a probability of 3e-8."""
PART_KEYS = 2**16
"""The number of keys in a file of the index; a full file has 1.1 MB."""
FLUSH_SECONDS = 5.0
"""The time between two writes of the index. What was finished since the last one is recognized by its mark."""
TIME = "finished-before="
"""The beginning of the first line of each file, before a time in ns: when everything that is listed was finished."""


def digest_key(outputs: Iterable[PurePath], mark: Mark) -> str:
    """Compute the key of a result from the paths of its files and their mark, which depends on source and settings."""
    content = json.dumps([str(mark), *(path.as_posix() for path in outputs)])
    return hashlib.sha256(content.encode()).hexdigest()[:KEY_LENGTH]


class DoneIndex:
    """The keys of finished items, in files of `_atrous/done-*.txt` with a line for the time, and one for each key.

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

    def load(self, files: Iterable[StoredFile]) -> dict[str, int]:
        """Read the keys of all earlier jobs, each with the time in ns before which it was last finished.

        `files` are those beside the index, and the index itself. Files without a time, of early versions, are left out.

        Raises: `AtrousError` if they cannot be read.
        """
        finished: dict[str, int] = {}
        for file in files:
            if not file.path.startswith(f"{FOLDER}/done-"):
                continue
            header, *keys = self._storage.read(file.path).decode("ascii", "replace").split() or [""]
            digits = header.partition(TIME)[2]
            if not digits.isdigit():
                continue
            # The clock of the storage may be behind that of this machine; copied files are newer than their content.
            limit = min(int(digits), file.modified)
            finished.update((key, max(limit, finished.get(key, 0))) for key in keys)
        return finished

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
            content = "".join(f"{line}\n" for line in (f"{TIME}{time.time_ns()}", *self._part)).encode("ascii")
            self._storage.write(f"{FOLDER}/done-{self._run}-{self._number:04}.txt", content)
            self._unwritten = 0
        if len(self._part) >= PART_KEYS:
            self._part = []
            self._number += 1
        self._last_flush = time.monotonic()
