"""Write results so that they are complete or absent, and recognize those of earlier jobs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from atrous.errors import AtrousError
from atrous.files import check_writable, temporary_folder
from atrous.inference.jobs import ImageSource, check_source
from atrous.marks import SEARCHED, Mark, find_mark, foreign_file_error
from atrous.scale.done import DoneIndex, digest_key
from atrous.scale.sources import absolute_name
from atrous.scale.storage import Storage


class ResultFolder:
    """A folder of results, of this machine or at an address, as a worker sees it."""

    def __init__(self, address: str) -> None:
        self._storage = Storage(address)

    def is_finished(self, outputs: Iterable[Path], mark: Mark, source: ImageSource, *, overwrite: bool) -> bool:
        """Tell whether all outputs exist and have this mark.

        Raises: `AtrousError` for an output that another command wrote, or that of another source, unless `overwrite`.
        """
        if overwrite:
            return False
        finished = True
        for output in outputs:
            path = output.as_posix()
            ends = self._storage.read_ends(path, SEARCHED)
            existing = None if ends is None else find_mark(ends, map(self._storage.read, [path]))
            name = self._storage.name(path)
            if ends is not None and (existing is None or existing.command != mark.command):
                raise foreign_file_error(name, mark)
            if existing is not None:
                check_source(name, existing, mark, source)
            finished = finished and existing == mark
        return finished

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Yield a folder for the files of one result: the folder itself, or a temporary one that is then uploaded.

        Raises: `AtrousError` if a file cannot be written.
        """
        if self._storage.folder is not None:
            yield self._storage.folder
            return
        with temporary_folder() as temporary:
            yield temporary
            for file in sorted(temporary.rglob("*")):
                if file.is_file():
                    self._storage.write(file.relative_to(temporary).as_posix(), file.read_bytes())

    def rename(self, value: object, folder: Path) -> object:
        """Replace the path of a file in the folder of `writing` by its address; other values stay as they are."""
        if isinstance(value, str) and Path(value).is_relative_to(folder):
            return self._storage.name(Path(value).relative_to(folder).as_posix())
        return value

    @property
    def is_remote(self) -> bool:
        """Whether results are not files of this machine."""
        return self._storage.folder is None


class Ledger:
    """What is finished in a folder of results, as the process sees it that started the job.

    Raises: `AtrousError` for a folder that is not writable or cannot be reached.
    """

    def __init__(self, address: str) -> None:
        self.storage = Storage(address)
        if self.storage.folder is not None:
            check_writable(self.storage.folder)
        files = list(self.storage.list())
        self._modified = {file.path: file.modified for file in files}
        self.index = DoneIndex(self.storage)
        self._finished = self.index.load(files)

    def is_finished(self, outputs: Iterable[Path], mark: Mark) -> bool:
        """Tell whether an earlier job finished this result, and its files did not change since, without opening any.

        Where the storage does not tell when files changed, no result is finished: workers look at the marks.
        """
        outputs = list(outputs)
        limit = self._finished.get(digest_key(outputs, mark), 0)
        return all(0 < self._modified.get(output.as_posix(), 0) <= limit for output in outputs)

    def check_inputs(self, sources: Iterable[ImageSource], outputs: Iterable[Path]) -> None:
        """Check that no output would replace an input.

        Raises: `AtrousError` naming the first one.
        """
        names = {absolute_name(source) for source in sources}
        for output in outputs:
            name = self.storage.name(output.as_posix())
            if (str(Path(name).resolve()) if self.storage.folder is not None else name) in names:
                raise AtrousError(f"{name} would overwrite an input: choose another output (-o).")
