"""Write files atomically: nothing incomplete is ever left under its final name."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atrous.errors import AtrousError


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Write a file atomically: yield a temporary path, which is renamed to `path` after the block, or removed on error.

        with writing(Path("out/labels.png")) as temporary:
            image.save(temporary)

    Missing folders are created. The temporary name keeps the suffix, by which many writers choose their format.

    Raises: `AtrousError` if the file is not writable or the disk is full.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # last, because some writers replace the file
        os.replace(temporary, path)
    except OSError as error:
        raise AtrousError(
            f"Cannot write {path}: {error.strerror or error}. Choose another folder, or free disk space."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def check_writable(folder: Path) -> None:
    """Raise `AtrousError` unless files can be written to `folder`, or it can be created; create nothing."""
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise AtrousError(f"Cannot write to {folder}: {nearest} is a file. Choose another folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise AtrousError(f"Cannot write to {folder}: no permission. Choose another folder, or change its permissions.")


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all."""
    with writing(path) as temporary:
        temporary.write_text(text, "utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file completely or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")
