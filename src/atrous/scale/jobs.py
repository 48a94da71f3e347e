"""Run jobs that read an image and write files on a cluster: resumable, each result complete, failures reported."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

from atrous.errors import AtrousError
from atrous.files import DiskFullError
from atrous.inference.jobs import ImageSource, failure
from atrous.inference.prefetch import parallel_map
from atrous.marks import Mark
from atrous.progress import OnProgress
from atrous.scale.cluster import Resources, connect
from atrous.scale.done import FOLDER, digest_key
from atrous.scale.ray_data import run_in_actors
from atrous.scale.results import Ledger, ResultFolder

IO_THREADS = 8
"""The number of images that are read and written besides those in the network, where each takes a round trip."""
WORKER_DIED = "the worker died while it processed this image, several times; it may have run out of memory."

Description: TypeAlias = dict[str, Any]
"""The description of a result, for a line of JSON."""


class FileJob(Protocol):
    """An image and the files that are written for it, by their paths below the folder of the results."""

    @property
    def source(self) -> ImageSource: ...
    @property
    def outputs(self) -> tuple[Path, ...]: ...


Job = TypeVar("Job", bound=FileJob)


@dataclass
class JobReport:
    """What became of the images of a job."""

    images: int = 0
    written: int = 0
    skipped: int = 0
    """Images that were finished before."""
    failures: list[AtrousError] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def finished(self) -> int:
        """The number of images that need no more work in this run."""
        return self.written + self.skipped + len(self.failures)

    def to_dict(self) -> dict[str, Any]:
        """Collect the numbers and the failures, a line each, for JSON."""
        return {
            "images": self.images,
            "written": self.written,
            "skipped": self.skipped,
            "seconds": round(self.seconds, 1),
            "failures": [str(error) for error in self.failures],
        }


@dataclass
class JobOptions:
    """Where jobs run, and who is told about them.

    `address` is that of a Ray cluster; None starts one on this machine. `on_result` is called with the description of
    each result, in the order in which they are finished.
    """

    address: str | None = None
    resources: Resources = field(default_factory=Resources)
    overwrite: bool = False
    on_progress: OnProgress | None = None
    on_result: Callable[[Description], None] | None = None


class FileWorker:
    """Run jobs in a worker: `write(job, folder, mark)` writes the files of a job below a folder, and describes them.

    `threads` jobs are run side by side, and more where files are not on this machine.
    """

    def __init__(
        self,
        write: Callable[[Any, Path, Mark], Description],
        mark: Callable[[Any], Mark],
        out: str,
        *,
        threads: int,
        overwrite: bool,
    ) -> None:
        self._write = write
        self._mark = mark
        self._results = ResultFolder(out)
        self._threads = threads
        self._overwrite = overwrite

    def __call__(self, jobs: list[Any]) -> list[Description | AtrousError | None]:
        """Run jobs and return their descriptions, None for those that are finished already, and errors.

        Raises: `AtrousError` if the disk is full.
        """
        remote = self._results.is_remote or not all(isinstance(job.source, Path) for job in jobs)
        return list(parallel_map(self._run, jobs, self._threads + (IO_THREADS if remote else 0)))

    def _run(self, job: Any) -> Description | AtrousError | None:
        try:
            mark = self._mark(job)  # of the file as it is now, should it change meanwhile
            if self._results.is_finished(job.outputs, mark, job.source, overwrite=self._overwrite):
                return None
            with self._results.writing() as folder:
                description = self._write(job, folder, mark)
            return {key: self._results.rename(value, folder) for key, value in description.items()}
        except DiskFullError:
            raise
        except Exception as error:
            described = failure(job.source, error)
            return AtrousError(str(described))


def run_jobs(
    create: Callable[..., FileWorker],
    arguments: Callable[[Resources], Mapping[str, Any]],
    jobs: Sequence[Job],
    mark: Callable[[Job], Mark],
    out: str,
    options: JobOptions,
    failures: Sequence[AtrousError] = (),
) -> JobReport:
    """Run jobs on a cluster, except for those that an earlier run finished with the same marks.

    `create(out=, overwrite=, **arguments(resources))` makes the worker in each actor. The index of what is finished,
    and `report.json` with what could not be read, are in the folder `_atrous` below that of the results. `failures` are
    images that the job has to report, too.

    Raises: `AtrousError` for a place that cannot be reached, and errors of workers that no other job would survive.
    """
    start = time.monotonic()
    ledger = Ledger(out)
    ledger.check_inputs((job.source for job in jobs), (output for job in jobs for output in job.outputs))
    marked = [(job, mark(job)) for job in jobs]
    remaining = [
        (job, digest_key(job.outputs, job_mark))
        for job, job_mark in marked
        if options.overwrite or not ledger.is_finished(job.outputs, job_mark)
    ]
    keys = {job.outputs[0]: key for job, key in remaining}
    count = len(jobs) + len(failures)
    report = JobReport(count, skipped=len(jobs) - len(remaining), failures=list(failures))
    if not remaining:
        return report
    with connect(options.address, options.resources) as resources:
        keywords = {"out": ledger.storage.address, "overwrite": options.overwrite, **arguments(resources)}
        try:
            for batch, outcomes in run_in_actors(create, keywords, [job for job, _ in remaining], resources):
                for job, outcome in zip(batch, outcomes or [_died(job) for job in batch], strict=True):
                    if isinstance(outcome, AtrousError):
                        report.failures.append(outcome)
                        continue
                    ledger.index.add(keys[job.outputs[0]])
                    report.skipped += outcome is None
                    report.written += outcome is not None
                    if outcome is not None and options.on_result is not None:
                        options.on_result(outcome)
                if options.on_progress is not None:
                    options.on_progress(report.finished, count)
        finally:
            report.seconds = time.monotonic() - start
            ledger.index.flush()
            ledger.storage.write(f"{FOLDER}/report.json", json.dumps(report.to_dict(), indent=2).encode() + b"\n")
    return report


def _died(job: FileJob) -> AtrousError:
    return AtrousError(f"{job.source}: {WORKER_DIED}")
