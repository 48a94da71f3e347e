"""Segment videos and cameras: decoding, the network, and drawing with encoding run in parallel, in threads."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from atrous.errors import AtrousError
from atrous.files import writing
from atrous.imaging.io import Pixels
from atrous.imaging.labels import save_labels
from atrous.inference.formats.format import PREDICTED
from atrous.inference.prediction import CoarsePrediction
from atrous.inference.prefetch import BackgroundWorker, parallel_map, prefetch
from atrous.inference.segmentation import Segmentation
from atrous.marks import Mark, read_mark
from atrous.progress import OnProgress

try:
    import resource
except ImportError:  # Windows, which has no limits of file sizes
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from torch import Tensor

    from atrous.inference.segmenter import Segmenter
    from atrous.inference.tiling import TiledPrediction

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
"""Files that are read as videos."""

BUFFER_BYTES = 1 << 16
"""Bytes that OpenCV may hold back while it writes a video."""

DEFAULT_FPS = 25.0
"""Frames per second where a file or camera does not report them."""


@dataclass
class Timing:
    """The number of frames and the seconds spent in each stage; stages run in parallel, so `wall` is not their sum."""

    frames: int = 0
    interrupted: bool = False
    """Whether Ctrl-C ended the video early."""
    wall: float = 0.0
    stages: dict[str, float] = field(
        default_factory=lambda: {"decode": 0.0, "network": 0.0, "labels": 0.0, "draw": 0.0}
    )

    def __str__(self) -> str:
        """Summarize in one line, with the slowest stage, which limits the frame rate."""
        if not self.frames:
            return "no frames"
        parts = ", ".join(f"{name} {1000 * seconds / self.frames:.1f}" for name, seconds in self.stages.items())
        slowest = max(self.stages, key=lambda name: self.stages[name])
        fps = self.frames / self.wall
        return f"{self.frames} frames, {fps:.1f} per second; ms per frame: {parts}, in parallel; slowest: {slowest}"


class TemporalSmoother:
    """Temporal smoothing: an exponential moving average of probabilities over frames, at the network's resolution.

    `momentum` is the weight of the past: 0 switches smoothing off, 0.7 removes flicker and adapts to a cut within some
    frames.

    Raises: `AtrousError` for a momentum outside [0, 1).
    """

    def __init__(self, momentum: float) -> None:
        if not 0 <= momentum < 1:
            raise AtrousError(f"smoothing {momentum}: a number from 0 to below 1 is expected.")
        self.momentum = momentum
        self._average: tuple[Tensor, ...] = ()

    def __call__(self, prediction: CoarsePrediction) -> CoarsePrediction:
        """Average a frame's prediction with those of earlier frames; frames of another size start a new average."""
        if self.momentum == 0:
            return prediction
        import torch

        views = prediction.tensors()
        if prediction.merge != "mean_probabilities":
            views = tuple(view.float().softmax(0) for view in views)
        if [view.shape for view in views] == [view.shape for view in self._average]:
            views = tuple(torch.lerp(new, old, self.momentum) for new, old in zip(views, self._average, strict=True))
        self._average = views
        return replace(prediction, views=views, merge="mean_probabilities")


class VideoReader:
    """Iterate over the frames of a video file or, by its number, of a camera.

    Attributes: `fps`; `length`, the number of frames, or None where it is unknown; `seconds` spent in decoding so far.
    Raises: `AtrousError` for a source that cannot be opened or has no frame.
    """

    def __init__(self, source: Path | int) -> None:
        if isinstance(source, Path) and not source.is_file():
            raise AtrousError(f"{source}: there is no such file.")
        self.source = source
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        if not self._capture.isOpened():
            name = f"camera {source}" if isinstance(source, int) else str(source)
            raise AtrousError(
                f"{name}: it cannot be opened as a video. Files: {', '.join(VIDEO_SUFFIXES)}; cameras: 0, 1, ..."
            )
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if np.isfinite(fps) and fps > 0 else DEFAULT_FPS
        frames = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.length = int(frames) if isinstance(source, Path) and frames > 0 else None
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Pixels]:
        """Shape: each (H, W, 3) uint8, RGB."""
        decoded = False
        try:
            while True:
                start = time.perf_counter()
                success, frame = self._capture.read()
                if not success:
                    break
                decoded = True
                pixels = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
                self.seconds += time.perf_counter() - start
                yield pixels
        finally:
            self._capture.release()
        if not decoded:
            raise AtrousError(f"{self.source}: the video has no frame that can be decoded.")


class VideoWriter:
    """Write frames to an MP4 file, all at the size of the first one.

    OpenCV does not tell whether a frame was written: `add` looks for room on the disk, and `check` at the closed file.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._fps = fps
        self._video: Any = None
        self._size = (0, 0)
        self.frames = 0
        """The number of frames so far."""

    def add(self, frame: Pixels) -> None:
        """Append a frame.

        Shape: (H, W, 3) uint8, RGB.
        Raises: `AtrousError` where this system's OpenCV cannot write MP4; `OSError` if the disk is full.
        """
        self._check_room(frame.nbytes + BUFFER_BYTES)
        if self._video is None:
            self._size = frame.shape[1], frame.shape[0]
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._video = cv2.VideoWriter(str(self._path), code, self._fps, self._size)
            if not self._video.isOpened():
                raise AtrousError(f"{self._path}: this system's OpenCV cannot write MP4 videos.")
        if self._size != (frame.shape[1], frame.shape[0]):
            frame = np.asarray(cv2.resize(frame, self._size), np.uint8)  # the size changed within the stream
        self._video.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self.frames += 1

    def close(self) -> None:
        """Finish the file."""
        if self._video is not None:
            self._video.release()

    def check(self) -> None:
        """Check that the closed file is complete.

        Raises: `OSError` if it is not, because the disk or a quota was exhausted.
        """
        if not _is_complete_mp4(self._path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _check_room(self, needed: int) -> None:
        if shutil.disk_usage(self._path.parent).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0] if resource is not None else -1
        if limit >= 0 and self._path.stat().st_size + needed > limit:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))


def _is_complete_mp4(path: Path) -> bool:
    """Tell whether the boxes of an MP4 end where the file ends, and its table of frames (moov) is among them."""
    kinds, size = set(), path.stat().st_size
    with path.open("rb") as file:
        start = 0
        while start < size:
            file.seek(start)
            header = file.read(16).ljust(16, b"\0")
            length, kind, long_length = struct.unpack(">I4sQ", header)
            length = long_length if length == 1 else length
            if length < 8:
                return False
            kinds.add(kind)
            start += length
    return start == size and b"moov" in kinds


def segment_video(
    segmenter: Segmenter,
    source: Path | int,
    target: Path,
    *,
    smooth: float = 0.0,
    opacity: float = 0.55,
    on_progress: OnProgress | None = None,
    mark: Mark = PREDICTED,
    labels: Path | None = None,
) -> Timing:
    """Segment a video file or camera and write the overlay, without sound, to `target`, an MP4.

    Ctrl-C ends the video early and keeps the frames so far. `smooth` is the momentum of the temporal smoothing, see
    `TemporalSmoother`. `on_progress` is called with the numbers of finished and of all frames (None if unknown). `mark`
    is appended to the file, in a box that players ignore. `labels` is a folder to which the labels of each frame are
    written as well, as palette PNGs `000001.png` and so on; those of an earlier, longer video are removed.

    Raises: `AtrousError` for a video that cannot be read or written.
    """
    video, smoother, timing = VideoReader(source), TemporalSmoother(smooth), Timing()
    start = time.perf_counter()
    network_before = segmenter.network_seconds
    numbers = itertools.count(1)

    def predict(frame: Pixels) -> tuple[Pixels, CoarsePrediction | TiledPrediction]:
        return frame, segmenter.predict_coarse(frame)

    def draw(segmentation: Segmentation) -> None:
        drawing_start = time.perf_counter()
        writer.add(segmentation.overlay(opacity=opacity, legend=False))
        if labels is not None:
            save_labels(segmentation.labels, segmentation.colors, labels / f"{next(numbers):06d}.png", mark)
        timing.stages["draw"] += time.perf_counter() - drawing_start

    with writing(target) as temporary:
        writer = VideoWriter(temporary, video.fps)
        try:
            with BackgroundWorker() as worker:
                for frame, prediction in parallel_map(predict, prefetch(video), segmenter.workers):
                    worker.submit(draw, _label(segmenter, frame, prediction, smoother, timing))
                    timing.frames += 1
                    if on_progress is not None:
                        on_progress(timing.frames, video.length)
        except KeyboardInterrupt:
            if not writer.frames:
                raise
            timing.interrupted = True
            timing.frames = writer.frames  # the last ones may have been canceled, or not been counted
        finally:
            writer.close()
        writer.check()
        mark.append_to(temporary)
    if labels is not None:
        _remove_frames_from(next(numbers), labels, mark)
    timing.wall = time.perf_counter() - start
    timing.stages["decode"] = video.seconds
    timing.stages["network"] = segmenter.network_seconds - network_before
    return timing


def _label(
    segmenter: Segmenter,
    frame: Pixels,
    prediction: CoarsePrediction | TiledPrediction,
    smoother: TemporalSmoother,
    timing: Timing,
) -> Segmentation:
    start = time.perf_counter()
    if isinstance(prediction, CoarsePrediction):
        prediction = smoother(prediction)
    labels = prediction.labels()
    timing.stages["labels"] += time.perf_counter() - start
    return Segmentation(frame, labels, segmenter.card.classes, segmenter.card.colors)


def frame_paths(labels: Path) -> list[Path]:
    """List the labels of frames in a folder, in order."""
    return sorted(path for path in labels.glob("*.png") if path.stem.isdigit())


def _remove_frames_from(number: int, labels: Path, mark: Mark) -> None:
    """Remove the labels of later frames, which are from an earlier run of the same command."""
    for path in frame_paths(labels):
        existing = read_mark(path)
        if int(path.stem) >= number and existing is not None and existing.command == mark.command:
            path.unlink()
