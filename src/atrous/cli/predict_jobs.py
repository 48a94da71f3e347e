"""Plan the output files of `atrous predict`: expand folders and patterns, and refuse to replace other files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from atrous.console import print_line
from atrous.errors import AtrousError
from atrous.imaging.fetch import is_url
from atrous.inference.jobs import (
    COLLECTION,
    COMMAND,
    DEFAULT_FORMATS,
    GEOTIFF,
    ImageJob,
    check_source,
    plan_targets,
    result_mark,
)
from atrous.inference.sources import expand_source
from atrous.marks import Mark, check_replaceable, read_mark

VIDEO_FORMATS = ("overlay", "png")
"""Formats of videos: the overlay, which is always written, and a PNG per frame of labels."""


def is_camera(text: str) -> bool:
    """Tell whether an argument is the number of a camera, not a folder or a file of that name."""
    return text.isdecimal() and not Path(text).exists()


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
    paths: list[str], out: Path, *, formats: tuple[str, ...] = DEFAULT_FORMATS, allow_private: bool = False
) -> list[ImageJob]:
    """Expand files, folders and patterns to images, and choose different output files for each.

    Folders keep their inner structure; `out`, if it is inside one, is left out. Images of the same name get their
    suffix or a number appended.

    Raises: `AtrousError` for a folder or pattern without images, or a result that would overwrite an image.
    """
    sources = dict(pair for text in paths for pair in expand_source(text, results=out, allow_private=allow_private))
    jobs = plan_targets(sources, out, formats=formats)
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
        if is_camera(video):
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


def plan_formats(text: str | None, videos: list[str], *, probabilities: bool) -> tuple[str, ...]:
    """Choose the formats of images from the option `--format`; `probabilities` adds `npz`.

    Raises: `AtrousError` for an unknown format, or one that videos do not have.
    """
    from atrous.inference.formats import parse_formats

    formats = DEFAULT_FORMATS if text is None else parse_formats(text, others=[GEOTIFF])
    mixed = [name for name in formats if GEOTIFF in formats and name not in (GEOTIFF, "geojson")]
    if mixed or (probabilities and GEOTIFF in formats):
        raise AtrousError(
            f"--format {GEOTIFF} with {mixed[0] if mixed else 'npz'}: georeferenced images are written as {GEOTIFF} "
            "and geojson; write other formats in a run of their own."
        )
    others = [name for name in formats if name not in VIDEO_FORMATS]
    if videos and others:
        raise AtrousError(
            f"--format {others[0]}: videos are written as {' or '.join(VIDEO_FORMATS)}. Segment images in a run of "
            "their own."
        )
    return tuple(dict.fromkeys((*formats, "npz"))) if probabilities else formats


def plan_geo_options(
    bands: str | None, scale: str | None, *, simplify: float, wgs84: bool, formats: tuple[str, ...]
) -> dict[str, Any]:
    """Parse the options of georeferenced images, as those of `GeoOptions`.

    Raises: `AtrousError` for bands or a scale that are not numbers separated by commas, and for options without effect
    on any of the formats.
    """
    options = [("--bands", bands is not None), ("--scale", scale is not None), ("--wgs84", wgs84)]
    unused = [name for name, is_set in options if is_set and not {GEOTIFF, "geojson"} & set(formats)]
    if unused:
        raise AtrousError(f"{unused[0]} is for GeoTIFF: add --format {GEOTIFF} or geojson.")
    return {
        "bands": None if bands is None else _numbers("bands", bands, int, (1, 3), "3,2,1 or 1"),
        "scale": None if scale is None else _numbers("scale", scale, float, (2,), "0,10000"),
        "simplify": simplify,
        "wgs84": wgs84,
    }


def _numbers(
    option: str, text: str, convert: Callable[[str], Any], counts: tuple[int, ...], example: str
) -> tuple[Any, ...]:
    try:
        numbers = tuple(convert(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in counts:
        raise AtrousError(f"--{option} {text}: expected numbers separated by commas, such as {example}.")
    return numbers


def note_coordinates(jobs: Iterable[ImageJob]) -> None:
    """Print a note if an image is georeferenced, but its results will not be."""
    from atrous.imaging.geotiff import is_georeferenced

    for job in jobs:
        if isinstance(job.source, Path) and is_georeferenced(job.source):
            template = "[dim]note: {} is georeferenced; --format geotiff,geojson keeps its coordinates[/]"
            print_line(template, job.source, stderr=True)
            return


def check_outputs(jobs: Sequence[ImageJob | VideoJob], out: Path, *, overwrite: bool) -> None:
    """Check that no file would be replaced but earlier results of the same images and videos.

    Raises: `AtrousError` naming the first other file, unless `overwrite` is set.
    """
    if overwrite:
        return
    if len(jobs) > 1 and any(isinstance(job, ImageJob) and "coco" in job.formats for job in jobs):
        check_replaceable((out / COLLECTION,), Mark(COMMAND), overwrite=False)
    for job in jobs:
        mark = result_mark(job.source, None)
        check_replaceable(job.outputs, mark, overwrite=False)
        for output in job.outputs:
            existing = read_mark(output)
            if existing is not None:
                check_source(output, existing, mark, job.source)
