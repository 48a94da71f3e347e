"""Describe what is segmented and where the results go: names of output files, marks of finished ones."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol, TypeAlias, runtime_checkable

from atrous.errors import AtrousError, describe_unexpected
from atrous.marks import Mark, read_mark

if TYPE_CHECKING:
    from atrous.inference.segmenter import Segmenter

COMMAND = "predict"
"""The command in the marks of results."""

DEFAULT_FORMATS = ("png", "overlay")
"""What is written for an image unless formats are chosen."""

GEOTIFF = "geotiff"
"""The format of georeferenced labels, which are written window by window."""

COLLECTION = "annotations.coco.json"
"""The COCO file of all images, beside those of single images."""


@runtime_checkable
class ImageStream(Protocol):
    """An image that is not a file of this machine: of the web, standard input, or an object store."""

    def open(self) -> BinaryIO: ...

    def state(self) -> list[Any]:
        """What tells this image from an earlier one of the same name, such as size and time of change."""


ImageSource: TypeAlias = Path | ImageStream


class ImageJob(NamedTuple):
    """An image, and the label map that it is segmented to, a *.png; files of other `formats` are named after it.

    `name` is the path of the image relative to the folder that it is from, with forward slashes. `in_place` tells
    whether the files stay where they are written; from a place that they are moved to, the image is not found.
    """

    source: ImageSource
    target: Path
    formats: tuple[str, ...] = DEFAULT_FORMATS
    name: str = ""
    in_place: bool = True

    def open(self) -> Path | BinaryIO:
        """Fetch an image of the web, or read standard input; files stay as they are.

        Raises: `AtrousError` for an image that cannot be fetched.
        """
        return self.source if isinstance(self.source, Path) else self.source.open()

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The files that are written, in the order of the formats."""
        return tuple(self.output(name) for name in self.formats)

    def output(self, name: str) -> Path:
        """Name the file of a format."""
        from atrous.inference.formats import get_format

        if name == GEOTIFF:
            return self.target.with_suffix(".tif")
        return get_format(name).path(self.target)

    def file_name(self, name: str) -> str:
        """Name the image in the file of a format: for labelme by the way from there, else relative to its folder."""
        if name == "labelme" and self.in_place and isinstance(self.source, Path):
            try:
                return Path(os.path.relpath(self.source, self.target.parent)).as_posix()
            except ValueError:  # on another drive of Windows
                return self.source.resolve().as_posix()
        return self.name


def plan_targets(
    images: Mapping[ImageSource, PurePath], out: Path, *, formats: tuple[str, ...] = DEFAULT_FORMATS
) -> list[ImageJob]:
    """Choose different output files for images, given with their paths relative to the folder they are from.

    Images of the same name get their suffix or a number appended.
    """
    taken = {_fold_case(out / COLLECTION)}
    names = _distinct_names(images)
    jobs = []
    for source, relative in images.items():
        stems = [relative.stem, relative.name.replace(".", "_")]
        number = 1
        while True:
            job = ImageJob(source, out / relative.with_name(f"{stems[0]}.png"), formats, names[source])
            outputs = [_fold_case(output) for output in job.outputs]
            if taken.isdisjoint(outputs):
                break
            number += 1
            stems = [*stems[1:], f"{relative.stem}_{number}"]
        taken.update(outputs)
        jobs.append(job)
    return jobs


def _fold_case(path: Path) -> str:
    """Spell a path as file systems compare it that do not tell capital letters from small ones."""
    return str(path).casefold()


def _distinct_names(images: Mapping[ImageSource, PurePath]) -> dict[ImageSource, str]:
    """Name each image by its path relative to its folder; those of one name from the folder that they share."""
    groups: dict[str, list[ImageSource]] = {}
    for source, relative in images.items():
        groups.setdefault(relative.as_posix(), []).append(source)
    names = {group[0]: name for name, group in groups.items() if len(group) == 1}
    for group in groups.values():
        if len(group) > 1:
            files = {source: source.resolve() for source in group if isinstance(source, Path)}
            shared = _shared_folder(files.values())
            names.update(
                (source, (file.relative_to(shared) if shared else file).as_posix()) for source, file in files.items()
            )
            names.update((source, str(source)) for source in group if source not in files)
    return names


def _shared_folder(files: Iterable[Path]) -> Path | str:
    """Find the innermost folder that all files are in."""
    try:
        return os.path.commonpath([file.parent for file in files])
    except ValueError:  # there is none, on two drives of Windows
        return ""


def result_mark(source: object, settings: Any) -> Mark:
    """Make the mark of a result: digests of the path of its source, and of the settings and the state of the source."""
    source = source.resolve() if isinstance(source, Path) else source
    state: list[Any] = [settings]
    if isinstance(source, Path) and source.is_file():
        state += [source.stat().st_size, source.stat().st_mtime_ns]
    elif isinstance(source, ImageStream):
        state += source.state()
    return Mark(COMMAND, {"source": _digest(str(source)), "state": _digest(json.dumps(state))})


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def is_finished(job: ImageJob, settings: Any) -> bool:
    """Tell whether an earlier run with the same settings wrote the results of a file that has not changed since."""
    if not isinstance(job.source, Path):
        return False
    mark = result_mark(job.source, settings)
    return all(read_mark(output) == mark for output in job.outputs)


def check_source(output: object, existing: Mark, mark: Mark, source: object) -> None:
    """Check that an output that exists, with its mark, is the result of the same source.

    Raises: `AtrousError` if it is that of another one.
    """
    if existing.details.get("source", mark.details["source"]) != mark.details["source"]:
        raise AtrousError(
            f"{output} is the result of another file than {source}: choose another folder with -o, or replace it with "
            "--overwrite."
        )


def failure(source: object, error: Exception) -> AtrousError:
    """Describe in one line why an image was not segmented, beginning with its name."""
    if not isinstance(error, AtrousError):
        return AtrousError(f"{source}: {describe_unexpected(error)}")
    return error if str(source) in str(error) else AtrousError(f"{source}: {error}")


def segment_image(segmenter: Segmenter, job: ImageJob, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Segment an image, write the files of its formats, and describe the result.

    `settings` hold the preset of the `crf` and, if there are any, `format_options`.

    Raises: `AtrousError` for an image that cannot be read, and files that cannot be written.
    """
    from atrous.imaging.io import read_image
    from atrous.inference.formats import get_format
    from atrous.inference.refine import segment

    mark = result_mark(job.source, settings)  # of the file as it is now, should it change meanwhile
    if _has_coordinates(job):
        return _segment_georeferenced(segmenter, job, settings, mark)
    geo_options = settings.get("geo_options", {})
    if unused := [f"--{name}" for name in ("bands", "scale", "wgs84") if geo_options.get(name)]:
        raise AtrousError(f"{job.source}: it has no coordinates of a map; leave out {', '.join(unused)}.")
    pixels = read_image(job.open())
    start = time.perf_counter()
    probabilities = any(get_format(name).needs_probabilities for name in job.formats)
    segmentation = segment(segmenter, pixels, settings["crf"], probabilities=probabilities)
    options = settings.get("format_options", {})
    for name, path in zip(job.formats, job.outputs, strict=True):
        segmentation.save(path, format=name, overwrite=True, mark=mark, file_name=job.file_name(name), **options)
    seconds = time.perf_counter() - start
    return describe_result(job, segmentation.labels.shape, segmentation.class_fractions(), seconds)


def _has_coordinates(job: ImageJob) -> bool:
    """Tell whether the results of an image are in the coordinates of a map."""
    from atrous.imaging.geotiff import is_georeferenced

    return GEOTIFF in job.formats or (
        "geojson" in job.formats and isinstance(job.source, Path) and is_georeferenced(job.source)
    )


def _segment_georeferenced(
    segmenter: Segmenter, job: ImageJob, settings: Mapping[str, Any], mark: Mark
) -> dict[str, Any]:
    from atrous.inference.geotiff import GeoOptions, segment_geotiff

    if not isinstance(job.source, Path):
        raise AtrousError(f"{job.source}: georeferenced images are read from files of this machine; download it first.")
    if settings["crf"] is not None:
        raise AtrousError(f"{job.source}: the CRF refines images in memory, not window by window; leave out --crf.")
    start = time.perf_counter()
    targets = dict(zip(job.formats, job.outputs, strict=True))
    options = GeoOptions(**settings.get("geo_options", {}))
    result = segment_geotiff(segmenter, job.source, targets, options, mark=mark)
    return describe_result(job, result.size, result.class_fractions, time.perf_counter() - start)


def describe_result(
    job: ImageJob, size: tuple[int, ...], fractions: Mapping[str, float], seconds: float
) -> dict[str, Any]:
    """Describe the result of an image for a line of JSON: files, size, time and the fractions of the classes."""
    return {
        **describe_outputs(job),
        "width": size[1],
        "height": size[0],
        "seconds": round(seconds, 3),
        "classes": {name: round(fraction, 4) for name, fraction in fractions.items()},
    }


def describe_outputs(job: ImageJob) -> dict[str, str]:
    """Name the image and its files, as `labels`, `probabilities`, or by their format."""
    keys = {"png": "labels", "npz": "probabilities"}
    outputs = zip(job.formats, job.outputs, strict=True)
    return {"image": str(job.source), **{keys.get(name, name): str(output) for name, output in outputs}}


def merge_annotations(jobs: list[ImageJob], out: Path, settings: Any) -> Path | None:
    """Merge the COCO files of several images to one, of those that were written with these settings.

    Returns: its path; None where there is nothing to merge.
    Raises: `AtrousError` if it cannot be written.
    """
    from atrous.inference.formats.coco import merge_coco

    planned = [(job.output("coco"), job) for job in jobs if "coco" in job.formats] if len(jobs) > 1 else []
    parts = [path for path, job in planned if read_mark(path) == result_mark(job.source, settings)]
    if not parts:
        return None
    merge_coco(parts, out / COLLECTION, Mark(COMMAND))
    return out / COLLECTION
