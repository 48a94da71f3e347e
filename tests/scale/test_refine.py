"""`atrous crf` on folders, in one process, and with --ray with its workers in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import Run
from tests.offline import skip_without
from tests.scale.s3_server import S3Server
from tests.scale.test_predict import contents, report

skip_without("ray")


@pytest.fixture
def predicted(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> Path:
    assert run("predict", photographs, "-w", weights, "-o", tmp_path / "predicted", "--probabilities").code == 0
    return tmp_path / "predicted"


def test_a_folder(run: Run, photographs: Path, predicted: Path, tmp_path: Path) -> None:
    (predicted / "a_png.npz").unlink()
    result = run("crf", photographs, predicted, "-o", tmp_path / "out", "--probabilities")
    assert result.code == 2
    assert "1 of 3 images were not refined" in result.err
    assert "no probabilities of this image; expected a_png.npz or a_png.npy" in result.err
    names = [
        f"{stem}{end}" for stem in ("a", "deep/b") for end in (".npy", ".png", "_before_overlay.png", "_overlay.png")
    ]
    assert sorted(contents(tmp_path / "out")) == names
    run("crf", photographs / "a.jpg", predicted / "a.npz", "-o", tmp_path / "single", "--probabilities")
    single = contents(tmp_path / "single")
    assert {name: content for name, content in contents(tmp_path / "out").items() if name in single} == single
    assert len(single) == 4


def test_many_workers(run: Run, photographs: Path, predicted: Path, tmp_path: Path, in_process: None) -> None:
    command = ("crf", photographs, predicted, "--preset", "v1", "-o")
    assert run(*command, tmp_path / "one").code == 0
    result = run(*command, tmp_path / "many", "--ray")
    assert result.code == 0, result.err
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert run(*command, tmp_path / "many", "--ray").code == 0
    assert report(tmp_path / "many")["written"] == 3  # of the first run: nothing was left to do
    (predicted / "a.npz").write_bytes((predicted / "deep" / "b.npz").read_bytes())
    (predicted / "a_png.npz").write_bytes(b"no probabilities")
    result = run(*command, tmp_path / "many", "--ray")
    assert "a_png.npz: not a complete .npz" in result.err
    assert report(tmp_path / "many") | {"seconds": 0, "failures": 1} == {
        "images": 3, "written": 1, "skipped": 1, "seconds": 0, "failures": 1,
    }  # fmt: skip


def test_buckets(run: Run, photographs: Path, predicted: Path, s3: S3Server, in_process: None) -> None:
    for kind, folder in (("photos", photographs), ("maps", predicted)):
        for name, content in contents(folder).items():
            s3.objects[f"bucket/{kind}/{name}"] = content
    result = run("crf", "s3://bucket/photos", "s3://bucket/maps", "-o", "s3://bucket/refined", "--ray")
    assert result.code == 0, result.err
    assert len([name for name in s3.puts if name.endswith("_before_overlay.png")]) == 3


@pytest.mark.parametrize("options", [(), ("--ray",)])
def test_results_inside_the_images_are_no_images(
    run: Run, photographs: Path, predicted: Path, in_process: None, options: tuple[str, ...]
) -> None:
    command = ("crf", photographs, predicted, "-o", photographs / "refined", *options)
    assert run(*command).code == 0
    result = run(*command)
    assert result.code == 0, result.err
    assert "9 images in" in result.err
