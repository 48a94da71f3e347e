"""The log of a CRF search, from which a search that was stopped resumes."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from atrous.errors import AtrousError, describe_unexpected
from atrous.evaluation.confusion import ConfusionMatrix
from atrous.files import write_error
from atrous.parsing import parse_json

MAX_CLASSES = 4096
"""The most classes that a log may claim, for its confusion matrices are allocated in full."""
_START = b'{"settings"'
"""The beginning of a log."""


class SearchLog:
    """Confusion matrices by image and grid point, in memory and, one JSON line each, in a file.

    Each line is written by a single system call, so that it is written whole or not at all; a last line that a crash
    cut short is removed when the file is opened again.

    Raises: `AtrousError` on entering, for a file that is no search log or belongs to a search with other settings.
    """

    def __init__(self, path: str | Path | None, settings: dict[str, Any], ignore_index: int = 255) -> None:
        self.path = None if path is None else Path(path)
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.ignore_index = ignore_index
        self.matrices: dict[tuple[Any, ...], ConfusionMatrix] = {}
        self._file: int | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> SearchLog:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._read(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)

    def _read(self, path: Path) -> None:
        assert self._file is not None
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        try:
            lines = [parse_json(line) for line in whole.splitlines()]
            header, rows = (lines[0]["settings"], lines[1:]) if lines else (None, [])
            for row in rows:
                if not 0 < row["classes"] <= MAX_CLASSES:
                    raise ValueError(f"{row['classes']} classes")
                matrix = ConfusionMatrix(row["classes"], ignore_index=self.ignore_index)
                for true, label, count in row["counts"]:
                    matrix.counts[true, label] = count
                self.matrices[tuple(row["key"])] = matrix
        except (ArithmeticError, ValueError, LookupError, TypeError, MemoryError) as error:
            reason = describe_unexpected(error)
            raise AtrousError(f"{path} is not the log of a CRF search ({reason}); choose another file") from error
        if not whole and text[: len(_START)] != _START[: len(text)]:
            raise AtrousError(f"{path} is not the log of a CRF search; choose another file")
        os.truncate(self._file if os.truncate in os.supports_fd else path, len(whole))
        if header is None:
            self._write({"settings": self.settings})
        elif header != self.settings:
            raise AtrousError(
                f"{path} belongs to a search with {header}, this one has {self.settings}; choose another file"
            )

    def add(self, key: tuple[Any, ...], matrix: ConfusionMatrix) -> None:
        """Add a confusion matrix under `(image,)`, before the CRF, or `(image, w1, sigma_alpha, sigma_beta)`.

        A key that another thread has added meanwhile is not written again.

        Raises: `AtrousError` if the disk is full; the log then ends with the line before.
        """
        counts = [[int(i), int(j), int(matrix.counts[i, j])] for i, j in np.argwhere(matrix.counts)]
        with self._lock:
            if key not in self.matrices:
                self._write({"key": key, "classes": matrix.num_classes, "counts": counts})
                self.matrices[key] = matrix

    def _write(self, record: dict[str, Any]) -> None:
        if self._file is None or self.path is None:
            return
        line = json.dumps(record).encode() + b"\n"
        length = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) < len(line):  # the disk is full but for a part of the line
                os.ftruncate(self._file, length)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise write_error(self.path, error) from error
