"""Segment any number of images on a Ray cluster: resumable, with lost workers replaced and failures reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atrous.inference.jobs import DEFAULT_FORMATS, ImageJob, merge_annotations, plan_targets, result_mark, segment_image
from atrous.marks import Mark
from atrous.scale.cluster import Resources
from atrous.scale.jobs import FileWorker, JobOptions, JobReport, run_jobs
from atrous.scale.sources import list_images
from atrous.scale.storage import open_storage
from atrous.scale.weights import SharedWeights

if TYPE_CHECKING:
    from atrous.inference.segmenter import Segmenter


@dataclass(frozen=True)
class NetworkOptions:
    """The options of the network that the workers run, as those of `Segmenter.load`."""

    device: str = "auto"
    tta: str = "none"
    tile: int | None = None
    output_stride: int | None = None
    engine: str = "auto"
    precision: str = "auto"

    def load(self, weights: Path, *, gpu: bool) -> Segmenter:
        """Load the network in a worker; without a GPU of its own on the CPU.

        Raises: `AtrousError` for options that the network does not support.
        """
        from atrous.inference import Segmenter

        return Segmenter.load(
            weights,
            device="cpu" if self.device == "auto" and not gpu else self.device,
            tta=self.tta,
            tile=self.tile,
            output_stride=self.output_stride,
            engine=self.engine,
            precision=self.precision,
            throughput=self.tile is None,
        )


def predict(
    images: Sequence[str],
    out: str,
    weights: Path,
    settings: Mapping[str, Any],
    network: NetworkOptions,
    options: JobOptions,
    *,
    formats: tuple[str, ...] = DEFAULT_FORMATS,
    allow_private: bool = False,
) -> JobReport:
    """Segment images on a cluster: files, folders, patterns or addresses, with results in a folder or at an address.

    The files are those of `atrous predict`. `settings` is what they depend on: what was finished with other settings is
    segmented again. The job can be stopped at any time and started again.

    Raises: `AtrousError` for images that are not found, results that cannot be written, and options that the network
    does not support.
    """
    jobs = plan_targets(list_images(images, results=out, allow_private=allow_private), Path(), formats=formats)

    def arguments(resources: Resources) -> dict[str, Any]:
        return {
            "weights": SharedWeights.share(weights),
            "settings": settings,
            "network": network,
            "gpu": bool(resources.num_gpus),
        }

    def mark(job: ImageJob) -> Mark:
        return result_mark(job.source, settings)

    report = run_jobs(create_worker, arguments, jobs, mark, out, options)
    folder = open_storage(out).folder
    if folder is not None:
        merge_annotations([job._replace(target=folder / job.target) for job in jobs], folder, settings)
    return report


def create_worker(
    *,
    out: str,
    overwrite: bool,
    weights: SharedWeights,
    settings: Mapping[str, Any],
    network: NetworkOptions,
    gpu: bool,
) -> FileWorker:
    """Load the network in an actor, and make the worker that segments images with it.

    Raises: `AtrousError` for options that the network does not support.
    """
    segmenter = network.load(weights.locate(), gpu=gpu)
    in_place = open_storage(out).folder is not None

    def write(job: ImageJob, folder: Path, mark: Mark) -> dict[str, Any]:
        return segment_image(segmenter, job._replace(target=folder / job.target, in_place=in_place), settings)

    def mark(job: ImageJob) -> Mark:
        return result_mark(job.source, settings)

    threads = 1 if segmenter.tile is not None else segmenter.workers
    return FileWorker(write, mark, out, threads=threads, overwrite=overwrite)
