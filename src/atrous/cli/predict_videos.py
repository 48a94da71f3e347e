"""Segment the videos of `atrous predict` and report the time of each stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from atrous.cli.predict_jobs import VideoJob, is_camera
from atrous.console import print_line
from atrous.inference.jobs import result_mark
from atrous.progress import progress_bar

if TYPE_CHECKING:
    from atrous.inference import Segmenter


def is_video(text: str) -> bool:
    """Tell whether an argument is a video file, by its suffix, or the number of a camera."""
    from atrous.inference.video import VIDEO_SUFFIXES

    return is_camera(text) or (Path(text).suffix.lower() in VIDEO_SUFFIXES and not Path(text).is_dir())


def segment_video_job(segmenter: Segmenter, job: VideoJob, smooth: float, *, as_json: bool) -> None:
    """Segment a video file, or a camera until Ctrl-C, and print the time of each stage."""
    from atrous.inference.video import segment_video

    source, target, labels = job
    description = "recording, Ctrl-C stops" if isinstance(source, int) else "segmenting"
    with progress_bar(description) as on_progress:
        timing = segment_video(
            segmenter,
            source,
            target,
            smooth=smooth,
            on_progress=on_progress,
            mark=result_mark(job.source, None),
            labels=labels,
        )
    if as_json:
        stages = {name: round(seconds, 3) for name, seconds in timing.stages.items()}
        result = {"video": str(source), "overlay": str(target), "frames": timing.frames}
        result |= {} if labels is None else {"labels": str(labels)}
        typer.echo(json.dumps({**result, "seconds": round(timing.wall, 3), "stages": stages}))
    else:
        print_line("{}: {}", source, timing)
        for output in (target,) if labels is None else (target, labels):
            print_line("  [dim]->[/] {}", output)
    if timing.interrupted and not isinstance(source, int):  # Ctrl-C is how a recording ends
        print_line("[yellow]stopped after {} frames, which are in {}[/]", timing.frames, target, stderr=True)
        raise typer.Exit(130)
