"""Write files atomically: nothing incomplete is ever left under its final name."""

from __future__ import annotations

import csv
import errno
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atrous.errors import AtrousError


class DiskFullError(AtrousError):
    """A file that was not written because the disk, a quota, or a limit of file sizes is exhausted."""


@contextmanager
def writing(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Write a file atomically: yield a temporary path, which is renamed to `path` after the block, or removed on error.

        with writing(Path("out/labels.png")) as temporary:
            image.save(temporary)

    Missing folders are created. The temporary name keeps the suffix, by which many writers choose their format. `sync`
    waits until the content is on the disk, so that not even a power failure leaves less than a complete file.

    Raises: `AtrousError` if the file is not writable or the disk is full.
    """
    temporary: Path | None = None
    try:
        temporary = _create_beside(path)
        permissions = temporary.stat().st_mode
        yield temporary
        temporary.chmod(permissions)  # some writers (safetensors) replace the file by one that only its owner can read
        if sync:
            # Without it the new name may reach the disk before the content: a power failure would leave an empty file
            # where a complete one was. The folder needs none: it holds the old file or the new one.
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_error(path: Path, error: OSError) -> AtrousError:
    """Describe a failed write: its reason, and what to do about it."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "Free disk space, then try again" if full else "Choose another folder, or check its permissions"
    kind = DiskFullError if full else AtrousError
    return kind(f"Cannot write {path}: {error.strerror or error}. {remedy}.")


def _create_beside(path: Path) -> Path:
    """Create an empty file of another name in the folder of `path`, with the permissions of any new file.

    `tempfile` would make one that only its owner can read, and reading the umask changes it for all threads.
    """
    while True:
        temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            continue
        else:
            return temporary


def check_writable(folder: Path) -> None:
    """Raise `AtrousError` unless files can be written to `folder`, or it can be created; create nothing."""
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise AtrousError(f"Cannot write to {folder}: {nearest} is a file. Choose another folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise AtrousError(f"Cannot write to {folder}: no permission. Choose another folder, or change its permissions.")


def overlay_path(labels: Path) -> Path:
    """Name the overlay that is saved beside a label map."""
    return labels.with_name(f"{labels.stem}_overlay.png")


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all."""
    with writing(path) as temporary:
        temporary.write_text(text, "utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file completely or not at all.

    Raises: `AtrousError` if the file cannot be written.
    """
    write_text(path, json.dumps(content, indent=2) + "\n")


class CsvFile:
    """A CSV file that is appended row by row and readable at any time.

    An existing file is continued; of its rows, only those that `keep` accepts are kept.
    """

    def __init__(self, path: Path, columns: Sequence[str], *, keep: Callable[[Mapping[str, str]], bool]) -> None:
        self.path = path
        self.columns = list(columns)
        kept = [row for row in read_csv(path) if keep(row)]
        with writing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows({key: row.get(key, "") for key in self.columns} for row in kept)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row.

        Raises: `AtrousError` if the file cannot be written, such as on a full disk.
        """
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns).writerow(row)
        except OSError as error:
            raise write_error(self.path, error) from error


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read the complete rows of a CSV file, without an unfinished last one; none if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if None not in row.values()]
