"""Write files atomically: nothing incomplete is ever left under its final name."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from atrous.errors import AtrousError

try:
    import fcntl
except ImportError:  # Windows: abandoned temporary files are not recognized there
    fcntl = None  # type: ignore[assignment]

_TEMPORARY_FILE = re.compile(r"(\..*\.atrous-[0-9a-f]{8})(?:\..*)?")
_TEMPORARY_FOLDER = "atrous-locked-"
"""The beginning of the names of temporary folders."""
_swept: set[str] = set()
"""The folders from which this process has removed abandoned temporary files."""
_sweeping = threading.Lock()


class DiskFullError(AtrousError):
    """A file that was not written because the disk, a quota, or a limit of file sizes is exhausted."""


@contextmanager
def writing(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Write a file atomically: yield a temporary path, which is renamed to `path` after the block, or removed on error.

        with writing(Path("out/labels.png")) as temporary:
            image.save(temporary)

    Missing folders are created. The temporary name keeps the suffix, by which many writers choose their format. `sync`
    waits until the content is on the disk, so that not even a power failure leaves less than a complete file. Temporary
    files that killed processes have left in the folder are removed.

    Raises: `AtrousError` if the file is not writable or the disk is full.
    """
    temporary: Path | None = None
    handle: int | None = None
    try:
        _remove_abandoned(path.parent)
        temporary, handle = _create_beside(path)
        yield temporary
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
        if handle is not None:
            os.close(handle)


def write_error(path: Path, error: OSError) -> AtrousError:
    """Describe a failed write: its reason, and what to do about it."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "Free disk space, then try again" if full else "Choose another folder, or check its permissions"
    kind = DiskFullError if full else AtrousError
    return kind(f"Cannot write {path}: {error.strerror or error}. {remedy}.")


def _create_beside(path: Path) -> tuple[Path, int | None]:
    """Create an empty file of another name in the folder of `path`, with the permissions of any new file, and lock it.

    The lock, which ends with the process or when the returned handle is closed, tells others that the file is in use.
    `tempfile` would make one that only its owner can read, and reading the umask changes it for all threads.
    """
    while True:
        temporary = path.with_name(f".{path.stem[:40]}.atrous-{secrets.token_hex(4)}{path.suffix}")
        try:
            handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        except FileExistsError:
            continue
        if fcntl is None:
            os.close(handle)
            return temporary, None
        _lock(handle)
        if temporary.exists():
            return temporary, handle
        os.close(handle)  # another process has removed it before it was locked


def _lock(handle: int, *, wait: bool = True) -> bool:
    """Lock an open file or folder for this process; return whether it is locked."""
    if fcntl is None:
        return False
    with suppress(OSError):  # it is in use, or the file system has no locks
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    return False


def _remove_abandoned(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder, once per process."""
    with _sweeping:
        if (name := os.path.abspath(folder)) in _swept:
            return
        _swept.add(name)
    groups: dict[str, list[Path]] = {}
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if match := _TEMPORARY_FILE.fullmatch(entry.name):
                groups.setdefault(match[1], []).append(folder / entry.name)
    for files in groups.values():  # some writers put a second file beside, which nobody locks
        _remove_unlocked(files, Path.unlink)


def _remove_unlocked(paths: Iterable[Path], remove: Callable[[Path], None]) -> None:
    """Remove files or folders, unless a process has locked one of them."""
    with ExitStack() as stack, suppress(OSError):
        for path in paths:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            stack.callback(os.close, handle)
            if not _lock(handle, wait=False):
                return
        for path in paths:
            remove(path)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a folder for temporary files, and remove it after the block.

    Folders that killed processes of the same user have left are removed as well.
    """
    parent = Path(tempfile.gettempdir())
    for path in parent.glob(f"{_TEMPORARY_FOLDER}*") if hasattr(os, "getuid") else ():
        with suppress(OSError):
            if path.lstat().st_uid == os.getuid() and path.is_dir():
                _remove_unlocked([path], shutil.rmtree)
    with ExitStack() as stack:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY_FOLDER))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            if fcntl is None:
                break
            with suppress(FileNotFoundError):
                handle = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, handle)
                _lock(handle)
            if folder.exists():
                break  # else another process has removed it before it was locked
        yield folder


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
    """Read the complete rows of a CSV file, without an unfinished last one; none if there is no file.

    Raises: `AtrousError` for a file that is no CSV file, or has more values in a row than columns.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:  # the last character may be cut, too
            rows: list[dict[Any, str]] = list(csv.DictReader(file))
    except csv.Error as error:
        raise damaged_log_error(path, str(error)) from error
    if wide := next((number for number, row in enumerate(rows, start=1) if None in row), None):
        raise damaged_log_error(path, f"row {wide} has too many values")
    return [row for row in rows if None not in row.values()]


def damaged_log_error(path: Path, problem: str) -> AtrousError:
    """Describe a log that cannot be continued."""
    return AtrousError(f"{path}: this log is damaged ({problem}). Correct it, or move it away to begin a new one.")
