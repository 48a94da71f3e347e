from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from atrous import AtrousError, Segmenter
from atrous.files import DiskFullError
from atrous.inference.prediction import CoarsePrediction
from atrous.inference.video import TemporalSmoother, VideoReader, VideoWriter, segment_video
from tests.data_fixtures import photograph
from tests.full_disk import file_size_limit
from tests.inference.networks import ChannelNetwork, quadrants, rgb_card


def clip(path: Path, frames: int = 6, size: tuple[int, int] = (48, 64), *, noise: bool = False) -> Path:
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, size[::-1])
    for number in range(frames):
        video.write(photograph(number, size) if noise else np.ascontiguousarray(quadrants(*size)[..., ::-1]))
    video.release()
    return path


def test_the_overlay_has_the_frame_rate_and_size(tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mp4")
    calls: list[tuple[int, int | None]] = []
    timing = segment_video(
        Segmenter(ChannelNetwork(), rgb_card(), device="cpu"),
        source,
        tmp_path / "out" / "b.mp4",
        on_progress=lambda done, total: calls.append((done, total)),
    )
    assert timing.frames == 6
    assert calls[-1] == (6, 6)
    assert set(timing.stages) == {"decode", "network", "labels", "draw"}
    assert min(timing.stages.values()) >= 0
    assert "6 frames" in str(timing)
    overlay = VideoReader(tmp_path / "out" / "b.mp4")
    assert overlay.fps == pytest.approx(10)
    frames = list(overlay)
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 6
    assert frames[0][24, 5].argmax() == 0  # the red part stays red
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["b.mp4"]


def test_smoothing_averages_with_the_past() -> None:
    smoother = TemporalSmoother(0.75)
    first, second = torch.randn(2, 3, 4, 5)

    def frame(view: torch.Tensor) -> CoarsePrediction:
        return CoarsePrediction((view,), (8, 10), (8, 10), (8, 10), align_corners=False)

    before = smoother(frame(first))
    torch.testing.assert_close(before.views[0], first.softmax(0))
    after = smoother(frame(second))
    torch.testing.assert_close(after.views[0], 0.75 * first.softmax(0) + 0.25 * second.softmax(0))
    torch.testing.assert_close(after.probabilities().sum(0), torch.ones(8, 10))
    larger = frame(torch.randn(3, 6, 6))
    torch.testing.assert_close(
        smoother(larger).views[0], larger.views[0].softmax(0)
    )  # another size starts a new average


def test_flicker_of_one_frame_is_smoothed_away() -> None:
    smoother = TemporalSmoother(0.7)
    steady = torch.tensor([2.0, 0.0])[:, None, None].expand(2, 4, 4)
    for view in (steady, steady, steady.flip(0)):
        labels = smoother(CoarsePrediction((view,), (8, 8), (8, 8), (8, 8), align_corners=False)).labels()
    assert (labels == 0).all()


@pytest.mark.parametrize("contents", [b"", b"this is no video"])
def test_invalid_videos_are_refused(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(contents)
    with pytest.raises(AtrousError, match=r"a\.mp4: it cannot be opened as a video"):
        VideoReader(tmp_path / "a.mp4")
    with pytest.raises(AtrousError, match="no such file"):
        VideoReader(tmp_path / "b.mp4")
    with pytest.raises(AtrousError, match="from 0 to below 1"):
        TemporalSmoother(1.0)


def test_an_interruption_keeps_the_frames_so_far(tmp_path: Path) -> None:
    def stop(done: int, total: int | None) -> None:
        if done == 3:
            raise KeyboardInterrupt

    segmenter = Segmenter(ChannelNetwork(), rgb_card(), device="cpu")
    timing = segment_video(segmenter, clip(tmp_path / "a.mp4"), tmp_path / "b.mp4", on_progress=stop)
    assert 1 <= timing.frames <= 3
    assert len(list(VideoReader(tmp_path / "b.mp4"))) == timing.frames  # also if frames were canceled


@pytest.mark.parametrize("noticed", ["while it is written", "at its end"])
def test_a_full_disk_leaves_no_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noticed: str) -> None:
    """OpenCV itself writes on without a word."""
    source, calls, at_the_end = clip(tmp_path / "a.mp4", 40, noise=True), [], noticed == "at its end"
    if at_the_end:  # such as the limit of a quota, which nobody tells before it is reached
        monkeypatch.setattr(VideoWriter, "_check_room", lambda *_: None)
    segmenter = Segmenter(ChannelNetwork(), rgb_card(), device="cpu")
    with (
        file_size_limit(20_000 if at_the_end else 70_000),
        pytest.raises(DiskFullError, match=r"Cannot write .*b\.mp4: .* Free disk space"),
    ):
        segment_video(segmenter, source, tmp_path / "out" / "b.mp4", on_progress=lambda *call: calls.append(call))
    assert not list((tmp_path / "out").iterdir())
    assert (len(calls) == 40) == at_the_end
