"""The file in which a search keeps what it has found, so that it can be stopped and gone on with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from atrous.errors import AtrousError
from atrous.evaluation.confusion import ConfusionMatrix


class Journal:
    """Confusion matrices by image and point, in memory and, one line each, in a file.

    A line is written by one call to the system, so that it is there or it is not; a last line that a crash cut short is
    removed when the file is opened again.
    """

    def __init__(self, path: str | Path | None, settings: dict[str, Any], ignore_index: int = 255) -> None:
        self.path = None if path is None else Path(path)
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.ignore_index = ignore_index
        self.matrices: dict[tuple[Any, ...], ConfusionMatrix] = {}
        self._file: int | None = None

    def __enter__(self) -> Journal:
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
        os.truncate(self._file if os.truncate in os.supports_fd else path, len(whole))
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            head, rows = (lines[0]["settings"], lines[1:]) if lines else (None, [])
            for row in rows:
                matrix = ConfusionMatrix(row["classes"], ignore_index=self.ignore_index)
                for true, label, count in row["counts"]:
                    matrix.counts[true, label] = count
                self.matrices[tuple(row["key"])] = matrix
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise AtrousError(f"{path} is not the journal of a CRF search ({error!r}); name another file") from error
        if head is None:
            self._write({"settings": self.settings})
        elif head != self.settings:
            raise AtrousError(
                f"{path} belongs to a search with {head}, this one has {self.settings}; name another file"
            )

    def add(self, key: tuple[Any, ...], matrix: ConfusionMatrix) -> None:
        """Keep a confusion matrix under `(image,)`, before the CRF, or `(image, w1, sigma_alpha, sigma_beta)`."""
        counts = [[int(i), int(j), int(matrix.counts[i, j])] for i, j in np.argwhere(matrix.counts)]
        self._write({"key": key, "classes": matrix.num_classes, "counts": counts})
        self.matrices[key] = matrix

    def _write(self, record: dict[str, Any]) -> None:
        if self._file is not None:
            os.write(self._file, json.dumps(record).encode() + b"\n")
