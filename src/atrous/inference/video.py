"""Videos and cameras: decoding, the network, and drawing with encoding, each in its own thread at the same time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from atrous.errors import AtrousError
from atrous.files import writing
from atrous.imaging.io import Pixels
from atrous.inference.prediction import CoarsePrediction
from atrous.inference.prefetch import BackgroundWorker, ahead
from atrous.inference.segmenter import Segmentation, Segmenter

SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
"""What is taken for a video."""

USUAL_RATE = 25.0
"""Frames per second where a file or camera does not say."""


@dataclass
class Timing:
    """Where the time went, in seconds of each stage; the stages run side by side, so `wall` is not their sum."""

    frames: int = 0
    wall: float = 0.0
    stages: dict[str, float] = field(
        default_factory=lambda: {"decode": 0.0, "network": 0.0, "labels": 0.0, "draw": 0.0}
    )

    def __str__(self) -> str:
        """One line for people, with the slowest stage, which is what to make faster."""
        if not self.frames:
            return "no frames"
        parts = ", ".join(f"{name} {1000 * spent / self.frames:.1f}" for name, spent in self.stages.items())
        slowest = max(self.stages, key=lambda name: self.stages[name])
        rate = self.frames / self.wall
        return f"{self.frames} frames, {rate:.1f} per second; ms per frame: {parts}, side by side; slowest: {slowest}"


class Smoother:
    """Temporal smoothing: probabilities as a running mean over frames, on the grid of the network's scores.

    `strength` is the share that the past keeps: 0 is none, 0.7 quietens flicker and follows a cut within some frames.

    Raises: `AtrousError` for a strength outside [0, 1).
    """

    def __init__(self, strength: float) -> None:
        if not 0 <= strength < 1:
            raise AtrousError(f"smoothing {strength}: it lies from 0 to below 1.")
        self.strength = strength
        self._past: tuple[Tensor, ...] = ()

    def __call__(self, evidence: CoarsePrediction) -> CoarsePrediction:
        """The evidence of a frame, given that of those before."""
        if self.strength == 0:
            return evidence
        views = evidence.views
        if evidence.kind != "probabilities":
            views = tuple(view.float().softmax(0) for view in views)
        if [view.shape for view in views] == [view.shape for view in self._past]:
            views = tuple(torch.lerp(new, old, self.strength) for new, old in zip(views, self._past, strict=True))
        self._past = views
        return replace(evidence, views=views, kind="probabilities")


class Video:
    """Frames of a file or, by its number, of a camera.

    Raises: `AtrousError` for a source that cannot be opened or holds no frame.
    """

    def __init__(self, source: Path | int) -> None:
        if isinstance(source, Path) and not source.is_file():
            raise AtrousError(f"{source}: there is no such file.")
        self.source = source
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        if not self._capture.isOpened():
            what = f"camera {source}" if isinstance(source, int) else str(source)
            raise AtrousError(
                f"{what}: it cannot be opened as a video. Files: {', '.join(SUFFIXES)}; cameras: 0, 1, ..."
            )
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = float(rate) if np.isfinite(rate) and rate > 0 else USUAL_RATE
        frames = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.length = int(frames) if isinstance(source, Path) and frames > 0 else None
        """How many frames there are, as far as the file says."""
        self.seconds = 0.0
        """Spent in decoding so far."""

    def __iter__(self) -> Iterator[Pixels]:
        """Shape: each (H, W, 3) uint8, RGB."""
        found = False
        try:
            while True:
                start = time.perf_counter()
                there, frame = self._capture.read()
                if not there:
                    break
                found = True
                pixels = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
                self.seconds += time.perf_counter() - start
                yield pixels
        finally:
            self._capture.release()
        if not found:
            raise AtrousError(f"{self.source}: the video holds no frame that can be decoded.")


class Writer:
    """An MP4 file of pictures of one size; the first one decides."""

    def __init__(self, path: Path, rate: float) -> None:
        self._path = path
        self._rate = rate
        self._video: Any = None
        self._size = (0, 0)

    def add(self, picture: Pixels) -> None:
        """Append one picture.

        Raises: `AtrousError` where this system's OpenCV cannot write MP4.
        """
        if self._video is None:
            self._size = picture.shape[1], picture.shape[0]
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._video = cv2.VideoWriter(str(self._path), code, self._rate, self._size)
            if not self._video.isOpened():
                raise AtrousError(f"{self._path}: this system's OpenCV cannot write MP4 videos.")
        if self._size != (picture.shape[1], picture.shape[0]):
            picture = np.asarray(cv2.resize(picture, self._size), np.uint8)  # a stream whose size changed
        self._video.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file."""
        if self._video is not None:
            self._video.release()


def segment_video(
    segmenter: Segmenter,
    source: Path | int,
    target: Path,
    *,
    smooth: float = 0.0,
    opacity: float = 0.55,
    progress: Any = None,
) -> Timing:
    """Write the overlay of a video (without its sound) to `target`, an MP4; Ctrl-C ends it early and keeps the file.

    `smooth` is the strength of the temporal smoothing, see `Smoother`. `progress` is called with how many frames are
    done and of how many, None where that is unknown.

    Raises: `AtrousError` for a video that cannot be read or written.
    """
    video, smoother, timing = Video(source), Smoother(smooth), Timing()
    start = time.perf_counter()
    network = segmenter.network_seconds

    def draw(found: Segmentation) -> None:
        begun = time.perf_counter()
        writer.add(found.overlay(opacity=opacity, legend=False))
        timing.stages["draw"] += time.perf_counter() - begun

    with writing(target) as temporary:
        writer = Writer(temporary, video.rate)
        try:
            with BackgroundWorker() as behind:
                for frame in ahead(video):
                    behind.do(draw, _segment(segmenter, frame, smoother, timing))
                    timing.frames += 1
                    if progress is not None:
                        progress(timing.frames, video.length)
        except KeyboardInterrupt:
            if not timing.frames:
                raise
        finally:
            writer.close()
    timing.wall = time.perf_counter() - start
    timing.stages["decode"] = video.seconds
    timing.stages["network"] = segmenter.network_seconds - network
    timing.stages["labels"] -= timing.stages["network"]
    return timing


@torch.inference_mode()
def _segment(segmenter: Segmenter, frame: Pixels, smoother: Smoother, timing: Timing) -> Segmentation:
    begun = time.perf_counter()
    evidence = segmenter.evidence(frame)
    if isinstance(evidence, CoarsePrediction):
        evidence = smoother(evidence)
    labels = evidence.labels()
    timing.stages["labels"] += time.perf_counter() - begun
    return Segmentation(frame, labels, segmenter.card.classes, segmenter.card.colors)
