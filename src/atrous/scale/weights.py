"""Send the files of weights to the machines of a cluster."""

from __future__ import annotations

import glob
import hashlib
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from atrous.errors import AtrousError
from atrous.files import writing
from atrous.weights.importers.formats import checkpoint_index, list_files

State: TypeAlias = tuple[int, int]
"""The size of a file in bytes, and when it changed, in ns."""


@dataclass(frozen=True)
class SharedWeights:
    """Weights, which workers read where they are, or from the cluster's memory where they do not see all files."""

    path: Path
    states: dict[str, State]
    """The states of the file, and of those that are read with it, by their names."""
    contents: dict[str, Any] = field(default_factory=dict)
    """References to the contents of these files, by their names."""

    @classmethod
    def share(cls, path: Path) -> SharedWeights:
        """Put a file, with those that are read with it, into the memory of a cluster of several machines.

        Raises: `AtrousError` if one cannot be read.
        """
        import ray

        path = path.absolute()  # not where a link leads to: the name tells which files are read with it
        files = _list_all_files(path)
        contents = {}
        if sum(node["Alive"] for node in ray.nodes()) > 1:
            contents = {file.name: ray.put(file.read_bytes()) for file in files}
        return cls(path, {file.name: _read_state(file) for file in files}, contents)

    def locate(self) -> Path:
        """Find the file on this machine, or write it to a temporary folder, once per machine.

        Raises: `AtrousError` if a file is not on this machine and was not sent.
        """
        import ray

        files = {self.path.with_name(name): state for name, state in self.states.items()}
        changed = [file for file, state in files.items() if not file.is_file() or _read_state(file) != state]
        if not changed:
            return self.path
        if not self.contents:
            raise AtrousError(f"{changed[0]}: no such file on this machine; it was changed or removed during the job.")
        digest = hashlib.sha256(f"{self.path} {self.states}".encode()).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"atrous-weights-{digest}"
        for name, content in self.contents.items():
            if not (folder / name).is_file():
                with writing(folder / name) as temporary:
                    temporary.write_bytes(ray.get(content))
        return folder / self.path.name


def _list_all_files(path: Path) -> list[Path]:
    """List a file of weights, or an exported network, and all files beside it that are read with it."""
    files = list_files(path)
    if index := checkpoint_index(path):
        files += index.parent.glob(f"{glob.escape(index.stem)}.data-*")
    if path.suffix == ".xml":
        files.append(path.with_suffix(".bin"))
    if path.suffix == ".onnx":
        files.append(path.with_name(f"{path.name}.data"))
    return sorted({file for file in files if file.is_file()})


def _read_state(file: Path) -> State:
    status = file.stat()
    return status.st_size, status.st_mtime_ns
