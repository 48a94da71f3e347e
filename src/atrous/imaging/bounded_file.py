"""Files whose decoders allocate no more than there is to read."""

from __future__ import annotations

import io
import os
from pathlib import Path

_SMALL = 1 << 20
"""Reads up to this size are not checked."""


class BoundedFile(io.BufferedReader):
    """A file opened for reading, of which `read` allocates at most its rest: damaged headers ask for gigabytes."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._length = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _SMALL:
            size = min(size, max(0, self._length - self.tell()))
        return super().read(size)
