"""Send the file of weights to the machines of a cluster."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atrous.errors import AtrousError
from atrous.files import writing


@dataclass(frozen=True)
class SharedWeights:
    """A file of weights, which workers read where it is, or from the cluster's memory where they do not see it."""

    path: Path
    size: int
    modified: int
    contents: dict[str, Any] = field(default_factory=dict)
    """References to the content of the file, and of those that belong to it, by their names."""

    @classmethod
    def share(cls, path: Path) -> SharedWeights:
        """Put a file, with the second one of an exported network, into the memory of a cluster of several machines.

        Raises: `AtrousError` if it cannot be read.
        """
        import ray

        status = path.stat()
        contents = {}
        if sum(node["Alive"] for node in ray.nodes()) > 1:
            for file in (path, path.with_suffix(".bin"), path.with_name(f"{path.name}.data")):
                if file == path or (path.suffix in (".xml", ".onnx") and file.is_file()):
                    contents[file.name] = ray.put(file.read_bytes())
        return cls(path.resolve(), status.st_size, status.st_mtime_ns, contents)

    def locate(self) -> Path:
        """Find the file on this machine, or write it to a temporary folder, once per machine.

        Raises: `AtrousError` if the file is not on this machine and was not sent.
        """
        import ray

        if self.path.is_file() and (self.path.stat().st_size, self.path.stat().st_mtime_ns) == (
            self.size,
            self.modified,
        ):
            return self.path
        if not self.contents:
            raise AtrousError(f"{self.path}: no such file on this machine; it was changed or removed during the job.")
        digest = hashlib.sha256(f"{self.path} {self.size} {self.modified}".encode()).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"atrous-weights-{digest}"
        for name, content in self.contents.items():
            if not (folder / name).is_file():
                with writing(folder / name) as temporary:
                    temporary.write_bytes(ray.get(content))
        return folder / self.path.name
