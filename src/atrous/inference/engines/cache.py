"""A cache of converted networks in the user's cache folder, so that a network is converted once per machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atrous.errors import AtrousError
from atrous.files import writing
from atrous.inference.engines.metadata import encode_metadata

log = logging.getLogger("atrous")

FORMAT = 1
"""The version of the conversion; files of other versions are not used."""

LIMIT_VARIABLE = "ATROUS_ENGINE_CACHE_MB"
DEFAULT_LIMIT_MB = 2048
"""The size that the cache may grow to, in megabytes."""

LOCK_SECONDS = 60.0
"""After this time of waiting for another process, a network is converted without the cache."""


def cache_folder() -> Path:
    """Locate the folder of converted networks: `engines` in `ATROUS_CACHE`, else in the user's cache folder."""
    folder = os.environ.get("ATROUS_CACHE")
    if folder:
        return Path(folder) / "engines"
    from platformdirs import user_cache_path

    return user_cache_path("atrous") / "engines"


def cache_key(**parts: Any) -> str:
    """Compute the name of an entry from everything that it depends on, besides the CPU and this version of atrous."""
    version = sys.modules["atrous"].__version__
    everything = {**parts, "format": FORMAT, "atrous": version, "cpu": describe_cpu()}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:32]


def describe_cpu() -> str:
    """Describe the CPU and its instructions, on which an optimized network depends."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        lines = re.findall(r"^(?:model name|flags|Features|CPU part)\s*:.*$", text, re.MULTILINE)
        return platform.machine() + "\n".join(sorted(set(lines)))
    return f"{platform.machine()} {platform.processor()}"


class EngineCache:
    """Files of converted networks with a checksum; the least recently used are removed above a limit in size.

    `load` returns the content of an entry, or None if it is missing or damaged. `store` writes one. Where the folder
    cannot be written to, everything works without the cache.
    """

    def __init__(self) -> None:
        self.folder = cache_folder()
        self.limit = _limit()

    def load(self, key: str) -> bytes | None:
        """Read an entry, and mark it as used; a damaged one is removed."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        if not _is_complete(content):
            self.discard(key)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return content

    def store(self, key: str, content: bytes) -> None:
        """Write an entry, followed by its checksum, and remove those that exceed the limit."""
        if len(content) > self.limit:
            return
        try:
            with writing(self._path(key)) as temporary, temporary.open("wb") as file:
                file.write(content)
                file.write(_checksum(content))
            self._remove_oldest(keep=self._path(key))
        except (OSError, AtrousError) as error:
            log.info("The converted network is not kept: %s", error)

    def is_first_use(self, key: str) -> bool:
        """Tell whether an entry is asked for the first time, and remember that it was."""
        marker = self._path(key).with_suffix(".used")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            marker.touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError:  # a folder that is not writable keeps no converted network either
            pass
        return True

    def discard(self, key: str) -> None:
        """Remove an entry."""
        with contextlib.suppress(OSError):
            self._path(key).unlink()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Wait until no other process converts a network, so that none is converted twice."""
        from filelock import FileLock, Timeout

        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(self.folder / ".lock", timeout=LOCK_SECONDS))
            except (OSError, Timeout):  # a folder that is not writable, or a process that hangs
                pass
            yield

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.onnx"

    def _remove_oldest(self, keep: Path) -> None:
        total = 0
        entries = [(path, path.stat()) for path in self.folder.glob("*.onnx")]
        for path, status in sorted(entries, key=lambda entry: (entry[0] != keep, -entry[1].st_mtime)):
            total += status.st_size
            if total > self.limit:
                with contextlib.suppress(OSError):
                    path.unlink()


def _limit() -> float:
    """The limit in bytes.

    Raises: `AtrousError` if the environment variable is no number.
    """
    text = os.environ.get(LIMIT_VARIABLE, "")
    try:
        return float(text or DEFAULT_LIMIT_MB) * 1e6
    except ValueError:
        raise AtrousError(f"{LIMIT_VARIABLE}={text}: a number of megabytes is expected, such as 500.") from None


def _checksum(content: bytes) -> bytes:
    return encode_metadata("sha256", hashlib.sha256(content).hexdigest())


def _is_complete(content: bytes) -> bool:
    length = len(_checksum(b""))
    return content[-length:] == _checksum(content[:-length])
