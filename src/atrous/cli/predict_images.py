"""Segment the images of `atrous predict` side by side, and report results and failures."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from atrous.console import print_line
from atrous.errors import AtrousError
from atrous.files import DiskFullError
from atrous.inference.jobs import GEOTIFF, ImageJob, describe_outputs, describe_result, failure, segment_image
from atrous.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from atrous.inference import Segmenter


def segment_images(
    segmenter: Segmenter, jobs: list[ImageJob], out: Path, settings: Mapping[str, Any], *, as_json: bool
) -> None:
    """Segment images, several side by side, and report them in order.

    Raises: `AtrousError` at the end, listing the images that failed; at once where the disk is full.
    """
    from atrous.inference.prefetch import parallel_map

    failures: list[AtrousError] = []
    written: list[Path] = []
    single = len(jobs) == 1

    def segment(job: ImageJob) -> dict[str, Any] | AtrousError:
        try:
            result = segment_image(segmenter, job, settings)
        except DiskFullError:
            raise
        except AtrousError as error:
            return failure(job.source, error)
        except Exception as error:
            if single:
                raise
            return failure(job.source, error)
        written.append(job.target)
        return result

    windowed = segmenter.tile is not None or GEOTIFF in jobs[0].formats
    if single or windowed:  # in this thread, which Ctrl-C stops at once
        results: Generator[dict[str, Any] | AtrousError] = (segment(job) for job in jobs)
    else:
        results = parallel_map(segment, jobs, segmenter.workers)
    with progress_bar("segmenting", disable=single and not windowed) as on_progress:
        if single:
            segmenter.on_progress = on_progress  # the windows of the image
        else:
            on_progress(0, len(jobs))
        try:
            with contextlib.closing(results):
                for done, result in enumerate(results, start=1):
                    if isinstance(result, AtrousError):
                        failures.append(result)
                    else:
                        print_result(result, as_json=as_json)
                    if not single:
                        on_progress(done, len(jobs))
        except KeyboardInterrupt:
            template = "[yellow]stopped after {} of {} images; their results are in {}[/]"
            print_line(template, len(written), len(jobs), out, stderr=True)
            raise typer.Exit(130) from None
        except DiskFullError as error:
            raise AtrousError(f"{error} {len(written)} of {len(jobs)} images are finished.") from error
    if failures:
        raise failures[0] if single else _failures_error(failures, len(jobs), out if written else None)


def _failures_error(failures: list[AtrousError], count: int, out: Path | None) -> AtrousError:
    listed = "\n".join(f"  {failure}" for failure in failures)
    others = "" if out is None else f", the others are in {out}"
    return AtrousError(f"{len(failures)} of {count} images could not be segmented{others}:\n{listed}")


def describe_finished(segmenter: Segmenter, job: ImageJob) -> dict[str, Any]:
    """Describe the result of an earlier run; size and classes from its label map, if there is one.

    Raises: `AtrousError` for a label map that cannot be read.
    """
    from atrous.imaging.labels import class_fractions, read_raw_mask

    if "png" not in job.formats:
        return {**describe_outputs(job), "skipped": True}
    labels = read_raw_mask(job.output("png"))
    fractions = class_fractions(labels, segmenter.card.classes)
    return {**describe_result(job, labels.shape, fractions, 0.0), "skipped": True}


def print_result(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the result of an image as text, or as a line of JSON."""
    if as_json:
        typer.echo(json.dumps(result))
        return
    classes = ", ".join(["[bold]{}[/] {:.1%}"] * len(result["classes"]))
    fractions = [value for pair in result["classes"].items() for value in pair]
    print_line(f"{{}}: {classes}  [dim]({{:.2f}} s)[/]", result["image"], *fractions, result["seconds"])
    outputs = [value for key, value in result.items() if isinstance(value, str) and key != "image"]
    print_line("  [dim]->[/] {}", result.get("overlay", outputs[0]))
