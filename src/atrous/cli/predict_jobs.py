"""Plan the output files of `atrous predict`: expand folders and patterns, and recognize the results of earlier runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from atrous.cli.predict_sources import ImageSource, expand_source
from atrous.errors import AtrousError
from atrous.files import overlay_path
from atrous.imaging.fetch import is_url
from atrous.marks import Mark, check_replaceable, read_mark

COMMAND = "predict"


class ImageJob(NamedTuple):
    """An image and the label map that it is segmented to; with `probabilities`, these are written as well."""

    source: ImageSource
    target: Path
    probabilities: bool = False

    def open(self) -> Path | BinaryIO:
        """Fetch an image of the web, or read standard input; files stay as they are.

        Raises: `AtrousError` for an image that cannot be fetched.
        """
        return self.source if isinstance(self.source, Path) else self.source.open()

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The label map, the overlay and, if wanted, the probabilities beside it."""
        probabilities = (self.target.with_suffix(".npz"),) if self.probabilities else ()
        return self.target, overlay_path(self.target), *probabilities


class VideoJob(NamedTuple):
    """A video file, or the number of a camera, the video that it is segmented to, and a folder for labels if wanted."""

    source: Path | int
    target: Path
    labels: Path | None = None

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The overlay, the labels of the first frame, and those of other frames that exist already."""
        from atrous.inference.video import frame_paths

        if self.labels is None:
            return (self.target,)
        return self.target, self.labels / "000001.png", *frame_paths(self.labels)


def plan_images(
    paths: list[str], out: Path, *, probabilities: bool = False, allow_private: bool = False
) -> list[ImageJob]:
    """Expand files, folders and patterns to images, and choose different output files for each.

    Folders keep their inner structure. Images of the same name get their suffix or a number appended.

    Raises: `AtrousError` for a folder or pattern without images, or a result that would overwrite an image.
    """
    sources = dict(pair for text in paths for pair in expand_source(text, allow_private=allow_private))
    taken: set[Path] = set()
    jobs = []
    for source, relative in sources.items():
        stems = [relative.stem, relative.name.replace(".", "_")]
        number = 1
        while True:
            job = ImageJob(source, out / relative.with_name(f"{stems[0]}.png"), probabilities)
            if taken.isdisjoint(job.outputs):
                break
            number += 1
            stems = [*stems[1:], f"{relative.stem}_{number}"]
        taken.update(job.outputs)
        jobs.append(job)
    _check_sources(jobs, jobs)
    return jobs


def plan_videos(videos: list[str], out: Path, *, labels: bool = False) -> list[VideoJob]:
    """Choose a different output file for each video file or camera number, and with `labels` a folder beside it.

    Raises: `AtrousError` for a result that would overwrite a video.
    """
    unique = list(dict.fromkeys(videos))
    if addresses := [video for video in unique if is_url(video)]:
        raise AtrousError(f"{addresses[0]}: videos are not fetched from the web; download the file first.")
    taken: set[Path] = set()
    jobs = []
    for video in unique:
        if video.isdigit():
            jobs.append(VideoJob(int(video), out / f"camera_{video}.mp4"))
            continue
        path = Path(video)
        same_stem = [other for other in unique if Path(other).stem == path.stem]
        name = path.stem if len(same_stem) == 1 else path.name.replace(".", "_")
        target, number = out / f"{name}_overlay.mp4", 1
        while target in taken:
            number += 1
            target = out / f"{name}_{number}_overlay.mp4"
        taken.add(target)
        jobs.append(VideoJob(path, target))
    if labels:
        jobs = [
            job._replace(labels=job.target.with_name(f"{job.target.stem.removesuffix('_overlay')}_labels"))
            for job in jobs
        ]
    _check_sources(jobs, jobs)
    return jobs


def _check_sources(jobs: Iterable[ImageJob | VideoJob], sources: Iterable[ImageJob | VideoJob]) -> None:
    originals = {job.source.resolve() for job in sources if isinstance(job.source, Path)}
    for job in jobs:
        for output in job.outputs:
            if output.resolve() in originals:
                raise AtrousError(
                    f"{job.source}: its result {output} would overwrite an input; choose another folder with -o."
                )


def result_mark(job: ImageJob | VideoJob, settings: Any) -> Mark:
    """Make the mark of a result: digests of the path of its source, and of the settings and the state of the source."""
    source = job.source.resolve() if isinstance(job.source, Path) else job.source
    state: list[Any] = [settings]
    if isinstance(source, Path) and source.is_file():
        state += [source.stat().st_size, source.stat().st_mtime_ns]
    return Mark(COMMAND, {"source": _digest(str(source)), "state": _digest(json.dumps(state))})


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def is_finished(job: ImageJob, settings: Any) -> bool:
    """Tell whether an earlier run with the same settings wrote the results of a file that has not changed since."""
    if not isinstance(job.source, Path):
        return False
    mark = result_mark(job, settings)
    return all(read_mark(output) == mark for output in job.outputs)


def check_outputs(jobs: Iterable[ImageJob | VideoJob], *, overwrite: bool) -> None:
    """Check that no file would be replaced but earlier results of the same images and videos.

    Raises: `AtrousError` naming the first other file, unless `overwrite` is set.
    """
    if overwrite:
        return
    for job in jobs:
        mark = result_mark(job, None)
        check_replaceable(job.outputs, mark, overwrite=False)
        for output in job.outputs:
            existing = read_mark(output)
            if (
                existing is not None
                and existing.details.get("source", mark.details["source"]) != mark.details["source"]
            ):
                raise AtrousError(
                    f"{output} is the result of another file than {job.source}: choose another folder with -o, or "
                    "replace it with --overwrite."
                )
