"""Writing files so that nothing half-written is ever left under its final name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atrous.errors import AtrousError


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, renamed to it when the block ends well, removed when it does not.

    Missing folders are made. The temporary name keeps the suffix, by which many writers choose their format.

    Raises: `AtrousError` where the place cannot be written or the disk is full.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # at the end, for some writers put a file of their own in its place
        os.replace(temporary, path)
    except OSError as error:
        raise AtrousError(
            f"Cannot write {path}: {error.strerror or error}. Choose another place, or make room."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def check_writable(folder: Path) -> None:
    """Raise `AtrousError` if `folder` is none that can be written, nor could be made one; nothing is made."""
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise AtrousError(f"Cannot write to {folder}: {nearest} is a file. Choose another folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise AtrousError(f"Cannot write to {folder}: no permission. Choose another folder.")
