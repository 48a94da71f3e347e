"""Open the files of a TensorFlow checkpoint: in a folder, by any of their names, or inside the model zoo's archives.

Nothing is unpacked: the members of an archive are read where they are.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

from atrous.errors import AtrousError
from atrous.weights.importers.formats import GZIP_MAGIC, TABLE_MAGIC, Content, checkpoint_index
from atrous.weights.importers.tensorflow_bundle import Bundle, Shard
from atrous.weights.importers.tensorflow_graph import FrozenGraph
from atrous.weights.tensors import damaged_file_error

INDEX = ".index"

_FREE_SIZE, _LARGEST_RATIO, _MOST_MEMBERS = 64 * 2**20, 32, 1000
"""An archive may expand to this many bytes, or this many times its size: weights hardly compress."""

_UNREADABLE = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError)
"""The exceptions of damaged archives."""


class _BoundedGzip(gzip.GzipFile):
    """A compressed file that expands no further than to a limit in bytes; also headers of archives claim sizes."""

    limit = 0

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0 or self.tell() + size > self.limit:
            raise OSError(f"it expands beyond {self.limit} bytes, which is too much for its size")
        return super().read(size)


def open_variables(path: Path, resources: ExitStack) -> Bundle | FrozenGraph:
    """Open the variables of a checkpoint, an archive with one, or a frozen graph; `resources` closes the files.

    Raises: `AtrousError` for a missing or damaged file, and an archive with no checkpoint, with several, or with
    unsafe paths.
    """
    index = checkpoint_index(path)
    if index is None:
        content = Content.read(path)
        if content.head.startswith(GZIP_MAGIC):
            return _open_archive(path, resources)
        if not content.tail.endswith(TABLE_MAGIC):
            return FrozenGraph(path)
        index = path

    def open_shard(ending: str) -> Shard:
        shard = index.with_name(index.name.removesuffix(INDEX) + ending)
        if not shard.is_file():
            raise AtrousError(f"{path}: the values of this checkpoint are in {shard.name}, which is not beside it.")
        return Shard(resources.enter_context(shard.open("rb")), shard.stat().st_size)

    return Bundle(path, index.read_bytes(), open_shard)


def _open_archive(path: Path, resources: ExitStack) -> Bundle | FrozenGraph:
    try:
        compressed = resources.enter_context(_BoundedGzip(path))
        compressed.limit = max(_FREE_SIZE, _LARGEST_RATIO * path.stat().st_size)
        archive = resources.enter_context(tarfile.TarFile(fileobj=compressed))
        members = _list_members(path, archive)
    except AtrousError:
        raise
    except _UNREADABLE as error:
        raise damaged_file_error(path, f"not a tar.gz archive: {error}") from error
    indices = sorted(name for name in members if name.endswith(INDEX))
    if len(indices) != 1:
        listed = ", ".join(indices or sorted(members)[:5])
        raise AtrousError(
            f"{path}: expected one checkpoint (one .index) in the archive, found {len(indices)}: {listed}. Unpack it, "
            "and name the file to import."
        )
    prefix = indices[0].removesuffix(INDEX)

    def open_member(name: str) -> Shard:
        if name not in members:
            raise AtrousError(f"{path}: the archive lacks {name}, which its index refers to. Download it again.")
        file = archive.extractfile(members[name])
        assert file is not None  # a regular file
        return Shard(file, members[name].size)  # type: ignore[arg-type]

    try:
        shard = open_member(indices[0])
        index = shard.file.read(shard.size)
    except _UNREADABLE as error:
        raise damaged_file_error(path, str(error)) from error
    return Bundle(path, index, lambda ending: open_member(prefix + ending))


def _list_members(path: Path, archive: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    """List the regular files of an archive by name; refuse paths that lead out of it.

    Sparse files are left out: they can be larger than what is stored of them.
    """
    members = {}
    for count, member in enumerate(archive):
        parts = PurePosixPath(member.name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts:
            raise AtrousError(f"{path}: the archive contains the unsafe path {member.name}. Get it from its publisher.")
        if count == _MOST_MEMBERS:
            raise AtrousError(f"{path}: the archive has more than {_MOST_MEMBERS} members; expected one checkpoint.")
        if member.isreg() and not member.issparse() and not parts.name.startswith("._"):  # added by macOS
            members[member.name] = member
    return members
