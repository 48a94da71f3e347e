"""`atrous predict`: segment images and videos."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atrous.cli.crf import CRF
from atrous.cli.options import TTA, Device, Engine, OutputStride, Precision, Tile, load_segmenter
from atrous.cli.predict_jobs import ImageJob, VideoJob, check_outputs, plan_images, plan_videos, result_mark
from atrous.errors import AtrousError
from atrous.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Generator

    from rich.console import Console

    from atrous.inference import Segmentation, Segmenter

DEFAULT_WEIGHTS = "deeplab_v3_plus.efficientnet_lite0.camvid"
"""Weights that come with the package, trained on street scenes."""


def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders, quoted patterns such as 'a/*.jpg', video files, or the number of a camera.",
        ),
    ],
    weights: Annotated[
        str,
        typer.Option(
            "--weights", "-w", help="An id (see `atrous weights`) or a file; the default is for street scenes."
        ),
    ] = DEFAULT_WEIGHTS,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to; created if necessary.")] = Path(
        "out"
    ),
    output_stride: OutputStride = None,
    tta: TTA = "none",
    tile: Tile = None,
    crf: CRF = None,
    smooth: Annotated[
        float, typer.Option(help="Temporal smoothing of videos, from 0 (off) to below 1; 0.7 removes flicker.")
    ] = 0.0,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per image instead of text.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing files that are not results of the same images.")
    ] = False,
) -> None:
    """Segment images and videos: write label maps (palette PNG) and overlays (PNG, or MP4 for videos).

    Examples:

      atrous predict street.jpg

      atrous predict cat.jpg photos/ 'more/*.png' -w deeplab_v3.mobilenet_v2.voc -o segmented

      atrous predict street.jpg -w runs/best.safetensors --output-stride 8 --tta v3 --json

      atrous predict street.jpg --crf

      atrous predict satellite.tif --tile 513

      atrous predict clip.mp4 --smooth 0.7
    """
    from atrous.files import check_writable
    from atrous.inference.video import TemporalSmoother

    videos = [source for source in images if _is_video(source)]
    image_jobs = plan_images([source for source in images if source not in videos], out)
    video_jobs = plan_videos(videos, out)
    check_writable(out)
    check_outputs([*image_jobs, *video_jobs], overwrite=overwrite)
    if crf is not None:
        _check_crf(crf, videos)
    TemporalSmoother(smooth)  # checks the option before anything is loaded
    segmenter = load_segmenter(
        weights,
        device=device,
        tta=tta,
        tile=tile,
        output_stride=output_stride,
        engine=engine,
        precision=precision,
        throughput=len(image_jobs) > 1 or bool(videos),
    )
    for job in video_jobs:
        _segment_video(segmenter, job, smooth, as_json=as_json)
    if image_jobs:
        _segment_images(segmenter, image_jobs, out, crf, as_json=as_json)


def _is_video(text: str) -> bool:
    from atrous.inference.video import VIDEO_SUFFIXES

    return text.isdigit() or Path(text).suffix.lower() in VIDEO_SUFFIXES


def _check_crf(preset: str, videos: list[str]) -> None:
    from atrous.crf import get_preset

    get_preset(preset)
    if videos:
        raise AtrousError(f"{videos[0]}: the CRF refines images, not videos; leave out --crf.")


def _segment_images(segmenter: Segmenter, jobs: list[ImageJob], out: Path, crf: str | None, *, as_json: bool) -> None:
    """Segment images, several side by side, and report them in order; failed images are reported at the end."""
    from rich.console import Console

    from atrous.imaging.io import read_image
    from atrous.inference.prefetch import parallel_map
    from atrous.inference.refine import segment

    console = Console()
    failures: list[AtrousError] = []
    written: list[Path] = []

    def segment_and_save(job: ImageJob) -> dict[str, Any] | AtrousError:
        try:
            pixels = read_image(job.source)
            start = time.perf_counter()
            segmentation = segment(segmenter, pixels, crf)
            result = _save(job, segmentation, time.perf_counter() - start)
        except AtrousError as error:
            return error
        written.append(job.target)
        return result

    single = len(jobs) == 1
    if single or segmenter.tile is not None:  # in this thread, which Ctrl-C stops at once
        results: Generator[dict[str, Any] | AtrousError] = (segment_and_save(job) for job in jobs)
    else:
        results = parallel_map(segment_and_save, jobs, segmenter.workers)
    with progress_bar("segmenting", disable=single and segmenter.tile is None) as on_progress:
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
                        _print_result(console, result, as_json=as_json)
                    if not single:
                        on_progress(done, len(jobs))
        except KeyboardInterrupt:
            message = f"stopped after {len(written)} of {len(jobs)} images; their results are in {out}"
            Console(stderr=True).print(message, style="yellow")
            raise typer.Exit(130) from None
    if failures:
        raise failures[0] if single else _failures_error(failures, len(jobs), out)


def _failures_error(failures: list[AtrousError], count: int, out: Path) -> AtrousError:
    listed = "\n".join(f"  {failure}" for failure in failures)
    return AtrousError(f"{len(failures)} of {count} images could not be segmented, the others are in {out}:\n{listed}")


def _segment_video(segmenter: Segmenter, job: VideoJob, smooth: float, *, as_json: bool) -> None:
    """Segment a video file, or a camera until Ctrl-C, and print the time of each stage."""
    from rich.console import Console

    from atrous.inference.video import segment_video

    source, target = job
    description = "recording, Ctrl-C stops" if isinstance(source, int) else "segmenting"
    with progress_bar(description) as on_progress:
        timing = segment_video(
            segmenter, source, target, smooth=smooth, on_progress=on_progress, mark=result_mark(job, None)
        )
    if as_json:
        stages = {name: round(seconds, 3) for name, seconds in timing.stages.items()}
        result = {"video": str(source), "overlay": str(target), "frames": timing.frames}
        typer.echo(json.dumps({**result, "seconds": round(timing.wall, 3), "stages": stages}))
    else:
        console = Console()
        console.print(f"{source}: {timing}", soft_wrap=True)
        console.print(f"  [dim]->[/] {target}", soft_wrap=True)
    if timing.interrupted and not isinstance(source, int):  # Ctrl-C is how a recording ends
        typer.echo(f"stopped after {timing.frames} frames, which are in {target}", err=True)
        raise typer.Exit(130)


def _save(job: ImageJob, segmentation: Segmentation, seconds: float) -> dict[str, Any]:
    """Write the label map and the overlay of an image, and return its result for the report."""
    labels, overlay = segmentation.save(job.target, overwrite=True, mark=result_mark(job, None))
    height, width = segmentation.labels.shape
    return {
        "image": str(job.source),
        "labels": str(labels),
        "overlay": str(overlay),
        "width": width,
        "height": height,
        "seconds": round(seconds, 3),
        "classes": {name: round(fraction, 4) for name, fraction in segmentation.class_fractions().items()},
    }


def _print_result(console: Console, result: dict[str, Any], *, as_json: bool) -> None:
    """Print the result of an image as text, or as a line of JSON."""
    if as_json:
        typer.echo(json.dumps(result))
        return
    classes = ", ".join(f"[bold]{name}[/] {fraction:.1%}" for name, fraction in result["classes"].items())
    console.print(f"{result['image']}: {classes}  [dim]({result['seconds']:.2f} s)[/]")
    console.print(f"  [dim]->[/] {result['overlay']}", soft_wrap=True)
