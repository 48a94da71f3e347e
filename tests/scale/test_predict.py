"""`atrous predict --ray`, with its workers in this process."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import atrous.scale.predict as module
from atrous.scale.storage import Storage
from tests.command_line import Run
from tests.offline import skip_without
from tests.scale.s3_server import S3Server

skip_without("ray")
pytestmark = pytest.mark.usefixtures("in_process")


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder, without those of the index."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in files.items() if not name.startswith("_atrous/")}


def report(folder: Path) -> dict:
    return json.loads((folder / "_atrous" / "report.json").read_text())


def test_results_are_those_of_one_process(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
    options = ("predict", photographs, "-w", weights, "--probabilities", "--tta", "flip", "--crf", "v1")
    assert run(*options, "-o", tmp_path / "one").code == 0
    result = run(*options, "-o", tmp_path / "many", "--ray", "--json")
    assert result.code == 0, result.err
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert {line["labels"] for line in lines} == {
        str(tmp_path / "many" / n) for n in ("a.png", "a_png.png", "deep/b.png")
    }
    skipped = run(*options, "-o", tmp_path / "one", "--ray")  # recognizes what one process has done
    assert report(tmp_path / "one")["skipped"] == 3, skipped.err


def test_a_stopped_job_resumes(
    run: Run, photographs: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = ("predict", photographs, "-w", weights, "-o", out, "--ray")
    segmented: list[str] = []
    original = module.segment_image

    def interrupt(segmenter, job, settings):
        if len(segmented) == 2:
            raise KeyboardInterrupt
        segmented.append(job.target.name)
        return original(segmenter, job, settings)

    with monkeypatch.context() as patch:
        patch.setattr(module, "segment_image", interrupt)
        stopped = run(*command)
    assert stopped.code == 130
    assert "the same command resumes" in stopped.err
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert run(*command).code == 0
    assert report(out) | {"seconds": 0} == {"images": 3, "written": 1, "skipped": 2, "failures": [], "seconds": 0}
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    (out / "a.png").unlink()  # is made again, though the index has it
    (photographs / "deep" / "b.jpeg").write_bytes((photographs / "a.jpg").read_bytes() + b"\0")  # has changed
    assert run(*command).code == 0
    assert report(out)["written"] == 2
    assert run(*command, "--tta", "flip").code == 0  # other settings
    assert report(out)["written"] == 3


@pytest.mark.parametrize("between", [("--ray",), ()])
def test_results_that_were_replaced_are_made_again(
    run: Run, photographs: Path, weights: Path, tmp_path: Path, between: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    command = ("predict", photographs, "-w", weights, "-o", out)
    assert run(*command, "--ray").code == 0
    expected = contents(out)
    assert run(*command, "--tta", "flip", *between).code == 0
    assert contents(out) != expected
    for path in (out / "_atrous").iterdir():
        path.touch()  # as copying the folder does
    assert run(*command, "--ray").code == 0
    assert report(out)["written"] == 3
    assert contents(out) == expected


def test_results_of_one_format_do_not_stand_for_another(
    run: Run, photographs: Path, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ("predict", photographs, "-w", weights, "-o")
    assert run(*command, out, "--ray", "--tta", "flip").code == 0
    assert run(*command, out, "--ray", "--format", "png").code == 0
    assert run(*command, out, "--ray").code == 0
    assert run(*command, tmp_path / "expected").code == 0
    assert contents(out) == contents(tmp_path / "expected")


def test_the_clock_of_the_results_is_behind(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def predict(*options: str) -> None:
        start = time.time_ns() - 10**9
        assert run("predict", photographs, "-w", weights, "-o", out, "--ray", *options).code == 0
        for path in out.rglob("*.*"):
            if (modified := path.stat().st_mtime_ns) > start:
                os.utime(path, ns=(modified - 3600 * 10**9,) * 2)

    predict()
    expected = contents(out)
    predict("--tta", "flip")
    predict()
    assert contents(out) == expected


def test_a_storage_without_times(run: Run, photographs: Path, weights: Path) -> None:
    storage = Storage("memory://without-times")
    command = ("predict", photographs, "-w", weights, "-o", storage.address, "--ray")
    assert run(*command).code == 0
    expected = storage.read("a.png")
    assert run(*command, "--tta", "flip").code == 0
    assert storage.read("a.png") != expected
    assert run(*command).code == 0
    assert storage.read("a.png") == expected
    assert run(*command).code == 0
    assert json.loads(storage.read("_atrous/report.json"))["skipped"] == 3


def test_images_that_cannot_be_read_are_reported(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
    (photographs / "bad.jpg").write_text("no picture")
    command = ("predict", photographs, "-w", weights, "-o", tmp_path / "out", "--ray")
    result = run(*command)
    assert result.code == 2
    assert "1 of 4 images failed" in result.err
    (line,) = report(tmp_path / "out")["failures"]
    assert line.startswith(f"{photographs / 'bad.jpg'}: not an image")
    shutil.copy(photographs / "a.jpg", photographs / "bad.jpg")
    assert run(*command).code == 0
    assert report(tmp_path / "out")["written"] == 1


def test_other_files_are_not_replaced(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").write_text("mine")
    command = ("predict", photographs, "-w", weights, "-o", out, "--ray")
    assert "is not a file of `atrous predict`" in run(*command).err
    assert (out / "a.png").read_text() == "mine"
    assert (out / "deep" / "b.png").is_file()
    assert run(*command, "--overwrite").code == 0
    assert (out / "a.png").read_bytes() != b"mine"
    assert "would overwrite an input" in run("predict", photographs, "-w", weights, "-o", photographs, "--ray").err


def test_buckets(run: Run, photographs: Path, weights: Path, tmp_path: Path, s3: S3Server) -> None:
    for path in photographs.rglob("*.*"):
        s3.objects[f"bucket/photos/{path.relative_to(photographs).as_posix()}"] = path.read_bytes()
    s3.objects["bucket/photos/bad.jpg"] = b"no picture"
    command = ("predict", "s3://bucket/photos", "-w", weights, "-o", "s3://bucket/labels", "--ray", "--json")
    result = run(*command)
    assert "s3://bucket/photos/bad.jpg: not an image" in result.err
    names = {"a.png", "a_overlay.png", "a_png.png", "a_png_overlay.png", "deep/b.png", "deep/b_overlay.png"}
    written = {name for name in s3.puts if not name.startswith("bucket/labels/_atrous/")}
    assert written == {f"bucket/labels/{name}" for name in names}
    assert {json.loads(line)["labels"] for line in result.out.splitlines()} == {
        "s3://bucket/labels/a.png", "s3://bucket/labels/a_png.png", "s3://bucket/labels/deep/b.png",
    }  # fmt: skip
    run("predict", photographs, "-w", weights, "-o", tmp_path / "local")
    remote = np.asarray(Image.open(io.BytesIO(s3.objects["bucket/labels/deep/b.png"])))
    np.testing.assert_array_equal(remote, np.asarray(Image.open(tmp_path / "local" / "deep" / "b.png")))
    index = [name for name in s3.objects if name.startswith("bucket/labels/_atrous/done-")]
    assert len(index) == 1
    del s3.objects["bucket/photos/bad.jpg"]
    assert run(*command).code == 0
    for name in index:  # the driver was killed before it wrote the index
        del s3.objects[name]
    assert run(*command).code == 0
    assert {s3.puts[name] for name in written} == {1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", 2], "add --ray"),
        (["--ray", "--workers", 0], "--workers 0: expected a number above 0"),
        (["--ray", "--tta", "fast"], "fast"),
    ],
)
def test_options(run: Run, photographs: Path, weights: Path, tmp_path: Path, arguments, message: str) -> None:
    result = run("predict", photographs, "-w", weights, "-o", tmp_path / "out", *arguments)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_what_ray_does_not_read(run: Run, weights: Path, tmp_path: Path) -> None:
    assert "videos" in run("predict", "clip.mp4", "-w", weights, "-o", tmp_path, "--ray").err
    assert "Standard input" in run("predict", "-", "-w", weights, "-o", tmp_path, "--ray").err
    assert "--ray" in run("predict", "s3://bucket/photos", "-w", weights, "-o", tmp_path).err
    assert "--ray" in run("predict", tmp_path, "-w", weights, "-o", "s3://bucket/photos").err


def test_results_inside_the_images_are_no_images(run: Run, photographs: Path, weights: Path, s3: S3Server) -> None:
    for path in photographs.rglob("*.*"):
        s3.objects[f"bucket/photos/{path.relative_to(photographs).as_posix()}"] = path.read_bytes()
    for images, out in (("s3://bucket/photos", "s3://bucket/photos/out"), (photographs, photographs / "out")):
        command = ("predict", images, "-w", weights, "--ray", "--json", "-o")
        assert run(*command, out).out.count("labels") == 3
        result = run(*command, out)
        assert (result.out, result.code) == ("", 0), result.err
        assert "6 images in" in result.err


@pytest.mark.parametrize("place", ["s3://bucket", "memory://bucket", "file://{folder}"])
def test_a_single_image_at_an_address(
    run: Run, photographs: Path, weights: Path, tmp_path: Path, s3: S3Server, place: str
) -> None:
    address = place.format(folder=tmp_path / "place")
    Storage(address).write("a.jpg", (photographs / "a.jpg").read_bytes())
    result = run("predict", f"{address}/a.jpg", "-w", weights, "-o", tmp_path / "out", "--ray")
    assert result.code == 0, result.err
    assert set(contents(tmp_path / "out")) == {"a.png", "a_overlay.png"}
