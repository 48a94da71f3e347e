"""Refine class probabilities by the fully connected CRF on a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atrous.inference.refine_jobs import SUFFIXES, RefineJob, RefineOptions, pair_jobs, refine_image
from atrous.marks import Mark
from atrous.scale.cluster import Resources
from atrous.scale.jobs import FileWorker, JobOptions, JobReport, run_jobs
from atrous.scale.sources import list_images


def refine(
    images: str, probabilities: str, out: str, options: RefineOptions, where: JobOptions, *, keep: bool = False
) -> JobReport:
    """Refine the probabilities of a folder of images, all of them folders or addresses, with those of the same names.

    The job can be stopped at any time and started again.

    Raises: `AtrousError` for folders without images or probabilities, and results that cannot be written.
    """
    sources, maps = list_images([images], results=out), list_images([probabilities], suffixes=SUFFIXES)
    jobs, errors = pair_jobs(sources, maps, keep=keep)

    def arguments(resources: Resources) -> dict[str, Any]:
        return {"options": options}

    return run_jobs(create_worker, arguments, jobs, options.mark, out, where, failures=errors)


def create_worker(*, out: str, overwrite: bool, options: RefineOptions) -> FileWorker:
    """Make the worker that refines images, one after the other: the CRF uses all cores of its worker."""

    def write(job: RefineJob, folder: Path, mark: Mark) -> dict[str, Any]:
        return refine_image(job._replace(target=folder / job.target), options, mark)

    return FileWorker(write, options.mark, out, threads=1, overwrite=overwrite)
