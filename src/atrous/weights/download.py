"""Downloads that resume, are checked, and appear under their name only when they are whole and right."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from filelock import FileLock

from atrous.errors import AtrousError
from atrous.progress import OnProgress

CHUNK = 1 << 20
TIMEOUT = 30
"""Seconds without a byte after which a download counts as broken off."""


def download(url: str, path: Path, sha256: str, on_progress: OnProgress = lambda done, total: None) -> Path:
    """Fetch `url` to `path`, going on where an earlier try broke off.

    The bytes gather in a file of the name with `.part` behind it. Once complete and of the right checksum (`sha256`
    may be the beginning of it) it gets its name; of a wrong one it is removed.

    Raises: `AtrousError` for no connection, a server's refusal, a full disk or a wrong checksum.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(part.with_suffix(".lock")):
            if not path.exists():  # another process may have been faster
                _fetch(url, part, on_progress)
                check_sha256(part, sha256, remove=True, source=url)
                os.replace(part, path)
    except urllib.error.HTTPError as error:
        raise AtrousError(f"{url}: the server answers {error.code} {error.reason}. {_by_hand(path)}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise AtrousError(
            f"{url}: the download broke off ({reason}); what has come is kept, the next try goes on. {_by_hand(path)}"
        ) from error
    except OSError as error:
        raise AtrousError(f"Cannot write {path}: {error.strerror or error}. Make room, or set ATROUS_CACHE.") from error
    return path


def _fetch(url: str, part: Path, on_progress: OnProgress) -> None:
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing beyond what we have: it is whole, or of something else; the checksum tells
            raise
        return
    with response:
        resumed = response.status == 206
        done = done if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with part.open("ab" if resumed else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                on_progress(done, total)
    if total is not None and done < total:
        raise ConnectionError(f"{done} of {total} bytes came")


def check_sha256(path: Path, expected: str, *, remove: bool = False, source: str = "") -> None:
    """Raise `AtrousError` unless the file's SHA-256 begins with `expected`; with `remove`, remove a wrong file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    found = digest.hexdigest()
    if not found.startswith(expected):
        if remove:
            path.unlink()
        advice = "The download was removed; try again." if remove else "Fetch it anew, or rename it."
        raise AtrousError(
            f"{source or path}: the contents are not those released (SHA-256 {found[:16]}..., expected "
            f"{expected[:16]}...). {advice}"
        )


def _by_hand(path: Path) -> str:
    return f"Without a connection, put {path.name} into a folder that ATROUS_WEIGHTS names."
