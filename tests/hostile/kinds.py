"""A kind of file that is damaged: how it is written, damaged and read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kind:
    """A kind of file: how to write an undamaged one into a folder, how it is read, and where its keys and sizes are."""

    write: Callable[[Path], Path]
    """Write an undamaged file, and all that belongs to it, into a folder; return the path that is read."""
    reader: str = ""
    """The name of a function of `readers` that reads it through the Python interface."""
    command: tuple[str, ...] = ()
    """The arguments of the command that reads it; {path}, {folder} and {out} in them are replaced."""
    spots: Callable[[bytes], list[int]] = lambda content: []
    damaged: str = ""
    """The file to damage where several belong together: an ending instead of that of the path that is read, or a path
    in the folder; by default the path that is read."""
    unwrap: Callable[[bytes], bytes] = bytes
    wrap: Callable[[bytes], bytes] = bytes
    """To damage what compression or checksums protect: `unwrap` before the damage, `wrap` after it."""
    every: int = 1
    """In `make test` the command reads each of this many damaged files, in the slow tests ten times as many; the reader
    reads all."""
    text: bool = False
    """Whether it is a file of words and numbers."""
    some: int = 300
    """How many are damaged in `make test`."""
    many: int = 2000
    """How many are damaged in the slow tests."""

    def target(self, valid: Path, folder: Path) -> Path:
        """Locate the file to damage."""
        if not self.damaged:
            return valid
        return valid.with_suffix(self.damaged) if self.damaged.startswith(".") else folder / self.damaged
