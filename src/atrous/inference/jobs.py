"""Describe what is segmented and where the results go: names of output files, marks of finished ones."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol, TypeAlias, runtime_checkable

from atrous.errors import AtrousError, describe_unexpected
from atrous.files import overlay_path
from atrous.marks import Mark, read_mark

if TYPE_CHECKING:
    from atrous.inference.segmenter import Segmenter

COMMAND = "predict"
"""The command in the marks of results."""


@runtime_checkable
class ImageStream(Protocol):
    """An image that is not a file of this machine: of the web, standard input, or an object store."""

    def open(self) -> BinaryIO: ...

    def state(self) -> list[Any]:
        """What tells this image from an earlier one of the same name, such as size and time of change."""


ImageSource: TypeAlias = Path | ImageStream


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


def plan_targets(images: Mapping[ImageSource, PurePath], out: Path, *, probabilities: bool = False) -> list[ImageJob]:
    """Choose different output files for images, given with their paths relative to the folder they are from.

    Images of the same name get their suffix or a number appended.
    """
    taken: set[Path] = set()
    jobs = []
    for source, relative in images.items():
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
    return jobs


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
    """Segment an image, write label map and overlay, and describe the result.

    Raises: `AtrousError` for an image that cannot be read, and files that cannot be written.
    """
    from atrous.imaging.io import read_image
    from atrous.inference.refine import segment

    mark = result_mark(job.source, settings)  # of the file as it is now, should it change meanwhile
    pixels = read_image(job.open())
    start = time.perf_counter()
    segmentation = segment(segmenter, pixels, settings["crf"], probabilities=job.probabilities)
    segmentation.save(job.target, overwrite=True, mark=mark)
    if job.probabilities:
        segmentation.save_probabilities(job.outputs[-1], overwrite=True, mark=mark)
    seconds = time.perf_counter() - start
    return describe_result(job, segmentation.labels.shape, segmentation.class_fractions(), seconds)


def describe_result(
    job: ImageJob, size: tuple[int, ...], fractions: Mapping[str, float], seconds: float
) -> dict[str, Any]:
    """Describe the result of an image for a line of JSON: files, size, time and the fractions of the classes."""
    outputs = zip(("labels", "overlay", "probabilities"), job.outputs, strict=False)
    return {
        "image": str(job.source),
        **{name: str(output) for name, output in outputs},
        "width": size[1],
        "height": size[0],
        "seconds": round(seconds, 3),
        "classes": {name: round(fraction, 4) for name, fraction in fractions.items()},
    }
