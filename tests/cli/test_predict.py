from __future__ import annotations

import errno
import io
import json
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from atrous import AtrousError, create_model
from atrous.card import Preprocessing
from atrous.cli.predict_jobs import plan_images, plan_videos
from atrous.crf import dense_crf
from atrous.data.datasets import voc
from atrous.files import write_error
from atrous.imaging.io import read_image
from atrous.imaging.probabilities import read_probabilities
from atrous.inference import Segmentation, Segmenter
from atrous.weights import save
from tests.cli.conftest import Run, change
from tests.inference.networks import letter_card
from tests.pictures import bomb


def test_a_folder(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
    result = run("predict", photographs, "-w", weights, "-o", tmp_path / "out")
    assert result.code == 0, result.err
    written = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png"))
    assert written == [
        "a.png",
        "a_overlay.png",
        "a_png.png",
        "a_png_overlay.png",
        "deep/b.png",
        "deep/b_overlay.png",
    ]
    assert Image.open(tmp_path / "out" / "a.png").size == (50, 40)
    assert result.out.count("->") == 3


def test_a_pattern_and_json(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
    result = run("predict", f"{photographs}/*.png", "-w", weights, "-o", tmp_path / "out", "--json")
    (line,) = map(json.loads, result.out.splitlines())
    assert line["width"], line["height"] == (50, 40)
    assert sum(line["classes"].values()) == pytest.approx(1, abs=1e-3)
    assert Path(line["overlay"]).is_file()


def test_one_bad_image_does_not_stop_the_others(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
    (photographs / "0.jpg").write_text("not a picture")
    result = run("predict", photographs, "-w", weights, "-o", tmp_path / "out")
    assert result.code == 2
    assert "1 of 4 images could not be segmented" in result.err
    assert "0.jpg: not an image" in result.err
    assert len(list((tmp_path / "out").rglob("*_overlay.png"))) == 3


def test_another_output_stride(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
    arguments = ("predict", photographs / "a.jpg", "-w", weights, "-o", tmp_path / "out", "--output-stride")
    assert run(*arguments, 8).code == 0
    result = run(*arguments, 12)
    assert result.code == 2
    assert "output_stride 12" in result.err


def test_an_image_is_never_overwritten(run: Run, photographs: Path, weights: Path) -> None:
    before = (photographs / "a.png").read_bytes()
    result = run("predict", photographs / "a.png", "-w", weights, "-o", photographs)
    assert result.code == 2
    assert "would overwrite an input" in result.err
    assert (photographs / "a.png").read_bytes() == before


def test_ctrl_c_keeps_finished_images(
    run: Run, photographs: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls, interrupted = Segmenter.__call__, [], threading.Event()

    def interrupt(self, image):
        calls.append(image)
        if len(calls) == 8:
            signal.raise_signal(signal.SIGINT)  # which Python raises in the main thread
            interrupted.set()
        elif len(calls) > 8:
            interrupted.wait(30)
        return original(self, image)

    monkeypatch.setattr(Segmenter, "__call__", interrupt)
    for number in range(20):
        shutil.copy(photographs / "a.jpg", photographs / f"{number}.jpg")
    result = run("predict", photographs, "-w", weights, "-o", tmp_path / "out")
    assert result.code == 130
    finished = int(re.search(r"stopped after (\d+) of 23 images", result.err)[1])
    assert 8 <= finished == len(calls) < 23
    names = {path.name for path in (tmp_path / "out").rglob("*")} - {"deep"}
    assert len(names) == 2 * finished  # no file is incomplete, and none lacks its overlay
    assert all(Image.open(path).size == (50, 40) for path in (tmp_path / "out").glob("*[0-9].png"))


def test_ids_are_found_in_folders(
    run: Run, photographs: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATROUS_WEIGHTS", str(weights.parent))
    assert run("predict", photographs / "a.jpg", "-w", "tiny", "-o", tmp_path / "out").code == 0


def _text_named_jpg(folder: Path) -> Path:
    (folder / "text.jpg").write_text("hello")
    return folder / "text.jpg"


def _truncated(folder: Path) -> Path:
    path = folder / "truncated.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    return path


def _bomb(folder: Path) -> Path:
    (folder / "bomb.png").write_bytes(bomb(100_000, 100_000))
    return folder / "bomb.png"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing.jpg", "no such file"),
        (_text_named_jpg, "not an image"),
        (_truncated, "truncated or damaged"),
        (_bomb, "is not decoded"),
        (lambda folder: folder, "the folder holds no images"),
        (lambda folder: folder / "*.gif", "matches no file"),
    ],
)
def test_bad_images_are_one_line_and_code_2(run: Run, weights: Path, tmp_path: Path, make, message: str) -> None:
    (tmp_path / "in").mkdir()
    result = run("predict", make(tmp_path / "in"), "-w", weights, "-o", tmp_path / "out")
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_reported_first(
    run: Run, photographs: Path, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    result = run("predict", photographs, "-w", weights, "-o", tmp_path / "file" / "out")
    assert result.code == 2
    assert "is a file" in result.err
    assert not result.out


def test_a_video_gets_an_overlay(run: Run, weights: Path, tmp_path: Path) -> None:
    video = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for value in (0, 128, 255):
        video.write(np.full((48, 64, 3), value, np.uint8))
    video.release()
    result = run("predict", tmp_path / "a.mp4", "-w", weights, "-o", tmp_path / "out", "--smooth", 0.5, "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["frames"] == 3
    assert Path(report["overlay"]) == tmp_path / "out" / "a_overlay.mp4"
    assert cv2.VideoCapture(report["overlay"]).get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert run("predict", tmp_path / "a.mp4", "-w", weights, "-o", tmp_path / "out").code == 0  # its own file
    Path(report["overlay"]).write_text("a film of somebody")
    assert run("predict", tmp_path / "a.mp4", "-w", weights, "-o", tmp_path / "out").code == 2
    assert run("predict", tmp_path / "a.mp4", "-w", weights, "-o", tmp_path / "out", "--crf", "v2").code == 2


def test_ctrl_c_ends_a_video_with_130(run: Run, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.mp4", "b.mp4"):
        video = cv2.VideoWriter(str(tmp_path / name), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
        for value in range(0, 250, 10):
            video.write(np.full((48, 64, 3), value, np.uint8))
        video.release()
    original, calls = Segmenter.predict_coarse, []

    def interrupt(self, frame):
        calls.append(frame)
        if len(calls) == 12:
            signal.raise_signal(signal.SIGINT)
        return original(self, frame)

    monkeypatch.setattr(Segmenter, "predict_coarse", interrupt)
    result = run("predict", tmp_path / "a.mp4", tmp_path / "b.mp4", "-w", weights, "-o", tmp_path / "out")
    assert result.code == 130
    frames = int(re.search(r"stopped after (\d+) frames", result.err)[1])
    assert 1 <= frames < 25
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_overlay.mp4"]
    assert cv2.VideoCapture(str(tmp_path / "out" / "a_overlay.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == frames


def test_videos_of_one_name_get_different_overlays(tmp_path: Path) -> None:
    jobs = plan_videos(["a.mp4", "b.mp4", "a.avi", "0", "b.mp4", "x/a.mp4"], tmp_path, labels=True)
    assert [job.labels.name for job in jobs if job.source in (0, Path("b.mp4"))] == ["b_labels", "camera_0_labels"]
    assert {str(job.source): job.target.name for job in jobs} == {
        "a.mp4": "a_mp4_overlay.mp4",
        "a.avi": "a_avi_overlay.mp4",
        "b.mp4": "b_overlay.mp4",
        "0": "camera_0.mp4",
        "x/a.mp4": "a_mp4_2_overlay.mp4",
    }


def test_files_of_others_are_never_replaced(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
    other, out = tmp_path / "out" / "b.png", tmp_path / "out"
    out.mkdir()
    other.write_bytes((photographs / "a.png").read_bytes())
    before = other.read_bytes()
    image = photographs / "deep" / "b.jpeg"
    result = run("predict", image, "-w", weights, "-o", out)
    assert result.code == 2
    assert f"{other} exists and is not a file of `atrous predict`" in result.err
    assert other.read_bytes() == before
    assert [path.name for path in out.iterdir()] == ["b.png"]
    assert run("predict", image, "-w", weights, "-o", out, "--overwrite").code == 0
    assert other.read_bytes() != before
    assert run("predict", image, "-w", weights, "-o", out).code == 0  # its own

    namesake = tmp_path / "b.jpg"
    shutil.copy(photographs / "a.jpg", namesake)
    before = other.read_bytes()
    result = run("predict", namesake, "-w", weights, "-o", out)
    assert result.code == 2
    assert "is the result of another file" in result.err
    assert other.read_bytes() == before


def test_results_inside_the_folder_are_no_images(
    run: Run, photographs: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photographs)
    assert run("predict", ".", "-w", weights).out.count("->") == 3  # to out/
    result = run("predict", ".", "-w", weights)
    assert "3 of 3 images were segmented before" in result.err
    assert "6 images in out, where the results are, are left out" in result.err
    assert run("predict", ".", "-w", weights, "-o", "out/again").code == 0
    assert len(list(Path("out/again").rglob("*_overlay.png"))) == 9


def test_names_that_differ_in_case_alone_are_different_files_everywhere(tmp_path: Path) -> None:
    for name in ("IMG.jpg", "img.png", "Img.bmp"):
        (tmp_path / name).touch()
    names = [str(output).lower() for job in plan_images([str(tmp_path)], tmp_path / "out") for output in job.outputs]
    assert len(set(names)) == 6


def test_images_of_one_name_are_told_apart_in_annotations(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "x.jpg", tmp_path / "b" / "c" / "x.jpg", tmp_path / "b" / "y.jpg"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    urls = ["http://localhost/1/z.jpg", "http://localhost/2/z.jpg"]
    jobs = plan_images([*map(str, paths), *urls], tmp_path / "out", formats=("coco",))
    assert [job.file_name("coco") for job in jobs] == ["a/x.jpg", "b/c/x.jpg", "y.jpg", *urls]


def test_a_labelme_file_on_another_drive_names_the_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def relpath(path: object, start: object) -> str:  # as on Windows
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    (tmp_path / "x.jpg").touch()
    (job,) = plan_images([str(tmp_path / "x.jpg")], tmp_path / "out", formats=("labelme",))
    monkeypatch.setattr("os.path.relpath", relpath)
    assert job.file_name("labelme") == (tmp_path / "x.jpg").resolve().as_posix()


@pytest.mark.parametrize("name", ["2023", "2023.mp4"])
def test_a_folder_named_as_a_camera_or_a_video(
    run: Run, photographs: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    photographs.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert run("predict", name, "-w", weights).out.count("->") == 3


def test_options_of_geotiff_are_not_ignored(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
    arguments = ("predict", photographs / "a.png", "-w", weights, "-o", tmp_path / "out")
    for options in (("--bands", "3,2,1"), ("--scale", "0,300"), ("--wgs84",)):
        assert f"{options[0]} is for GeoTIFF: add --format geotiff or geojson" in run(*arguments, *options).err
        result = run(*arguments, "--format", "geojson", *options)
        assert result.code == 2
        assert f"it has no coordinates of a map; leave out {options[0]}" in " ".join(result.err.split())


def test_two_results_never_share_a_name(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
    shutil.copy(photographs / "a.jpg", photographs / "a_overlay.jpg")
    shutil.copy(photographs / "a.jpg", photographs / "a_overlay.png")
    result = run("predict", photographs, "-w", weights, "-o", tmp_path / "out", "--json")
    assert result.code == 0, result.err
    written = [line[kind] for line in map(json.loads, result.out.splitlines()) for kind in ("labels", "overlay")]
    assert len(set(written)) == len(written) == 10
    assert all(Path(path).is_file() for path in written)


def test_no_overlay_replaces_an_input(run: Run, photographs: Path, weights: Path) -> None:
    shutil.copy(photographs / "a.png", photographs / "b_overlay.png")
    images = (photographs / "deep" / "b.jpeg", photographs / "b_overlay.png")
    before = images[1].read_bytes()
    result = run("predict", *images, "-w", weights, "-o", photographs, "--overwrite")
    assert result.code == 2
    assert "would overwrite an input" in result.err
    assert images[1].read_bytes() == before


def test_a_failure_names_its_image_and_the_rest_is_tried(
    run: Run, photographs: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(photographs / "a.png", photographs / "0.png")
    original = Segmenter.__call__

    def fail_on_some(self, pixels, **options):
        if pixels.shape[0] == 1:
            raise RuntimeError("the sides\nare odd")
        if pixels.shape[0] == 2:
            raise AtrousError("Not enough free memory")
        return original(self, pixels, **options)

    monkeypatch.setattr(Segmenter, "__call__", fail_on_some)
    for height in (1, 2):
        Image.fromarray(np.zeros((height, 100, 3), np.uint8)).save(photographs / f"1{height}.png")
    result = run("predict", photographs, "-w", weights, "-o", tmp_path / "out")
    assert result.code == 2
    assert f"2 of 6 images could not be segmented, the others are in {tmp_path / 'out'}" in result.err
    assert f"{photographs / '11.png'}: RuntimeError: the sides are odd" in result.err
    assert f"{photographs / '12.png'}: Not enough free memory" in result.err
    assert len(list((tmp_path / "out").rglob("*_overlay.png"))) == 4
    for path in [*photographs.rglob("*.jp*g"), photographs / "0.png", photographs / "a.png"]:
        path.unlink()
    result = run("predict", photographs, "-w", weights, "-o", tmp_path / "other")
    assert "2 of 2 images could not be segmented:" in result.err  # there are no others


def test_an_impossible_image_is_named_with_the_way_out(run: Run, photographs: Path, tmp_path: Path) -> None:
    model = create_model("deeplab_v3.mobilenet_v2", width=0.125, num_classes=5)
    preprocessing = Preprocessing(resize="shorter_side", size=(257, 257))
    card = letter_card(False).model_copy(
        update={"model": "deeplab_v3.mobilenet_v2", "arguments": {"width": 0.125}, "preprocessing": preprocessing}
    )
    weights = save(model, tmp_path / "w.safetensors", card=card)
    Image.fromarray(np.zeros((1, 10_000, 3), np.uint8)).save(photographs / "long.png")
    result = run("predict", photographs, "-w", weights, "-o", tmp_path / "out", "--engine", "torch")
    assert result.code == 2
    (line,) = (line for line in result.err.splitlines() if "long.png" in line)
    assert "2570000 x 257 pixels" in line
    assert "--tile 513" in line
    assert len(list((tmp_path / "out").rglob("*_overlay.png"))) == 3
    assert run("predict", photographs / "long.png", "-w", weights, "-o", tmp_path / "out", "--tile", 513).code == 0


def test_a_full_disk_stops_at_once(
    run: Run, photographs: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        shutil.copy(photographs / "a.jpg", photographs / f"{number}.jpg")
    original, images = Segmentation.save, {}

    def save_until_full(self, path, **options):
        image = path.name.replace("_overlay", "")
        if images.setdefault(image, len(images)) >= 2:
            raise write_error(path, OSError(errno.ENOSPC, "No space left on device"))
        return original(self, path, **options)

    monkeypatch.setattr(Segmentation, "save", save_until_full)
    result = run("predict", photographs, "-w", weights, "-o", tmp_path / "out")
    assert result.code == 2
    assert "No space left on device. Free disk space, then try again. 2 of 43 images are finished." in result.err
    assert len(images) < 40
    assert len(result.err.strip().splitlines()) == 1


def test_a_folder_is_continued(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
    arguments = ("predict", photographs, "-w", weights, "-o", tmp_path / "out")
    assert run(*arguments).out.count("->") == 3
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    result = run(*arguments)
    assert result.code == 0
    assert "3 of 3 images were segmented before" in result.err
    assert "->" not in result.out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")} == before

    (tmp_path / "out" / "a_overlay.png").unlink()
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(photographs / "a.png")
    result = run(*arguments, "--json")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert [line.get("skipped", False) for line in lines] == [True, False, False]
    assert all(sum(line["classes"].values()) == pytest.approx(1, abs=1e-3) for line in lines)
    assert Image.open(tmp_path / "out" / "a_png.png").size == (30, 30)

    assert run(*arguments, "--tta", "flip").out.count("->") == 3  # other settings
    assert run(*arguments, "--overwrite").out.count("->") == 3


def test_a_folder_is_segmented_again_where_half_of_the_weights_changed(
    run: Run, photographs: Path, halves: tuple[Path, Path], tmp_path: Path
) -> None:
    encoder, decoder = halves
    arguments = ("predict", photographs, "-w", encoder, "--engine", "torch", "-o", tmp_path / "out")
    assert run(*arguments).code == 0
    assert "3 of 3 images were segmented before" in run(*arguments).err
    change(decoder)
    assert run(*arguments).out.count("->") == 3


def test_probabilities_are_refined_by_the_crf(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
    image, out = photographs / "a.png", tmp_path / "out"
    arguments = ("predict", photographs, "-w", weights, "-o", out, "--json")
    (line, *_) = map(json.loads, run(*arguments, "--probabilities", "--crf").out.splitlines())
    assert sorted(path.name for path in out.glob("*.npz")) == ["a.npz", "a_png.npz"]
    assert line["probabilities"] == str(out / "a.npz")
    maps, classes, _ = read_probabilities(out / "a_png.npz")
    assert maps.shape == (21, 40, 50)
    assert classes == voc.CLASSES
    expected = Segmenter.load(weights, device="cpu")(image, probabilities=True).probabilities
    np.testing.assert_allclose(maps, expected, atol=1e-3)  # those of the network, not of the CRF
    result = run("crf", image, out / "a_png.npz", "-o", tmp_path / "refined")
    assert result.code == 0, result.err
    refined = np.asarray(Image.open(tmp_path / "refined" / "a.png"))
    np.testing.assert_array_equal(refined, dense_crf(read_image(image), maps, "v2", output="labels"))


def test_finished_images_without_probabilities_are_segmented_again(
    run: Run, photographs: Path, weights: Path, tmp_path: Path
) -> None:
    arguments = ("predict", photographs, "-w", weights, "-o", tmp_path / "out")
    assert run(*arguments).code == 0
    assert run(*arguments, "--probabilities").out.count("->") == 3
    assert "3 of 3 images were segmented before" in run(*arguments, "--probabilities").err
    (tmp_path / "out" / "a.npz").write_bytes(b"something else")
    result = run("predict", photographs / "a.jpg", "-w", weights, "-o", tmp_path / "out", "--probabilities")
    assert result.code == 2
    assert "a.npz exists and is not a file of `atrous predict`" in result.err


def test_the_default_weights_say_what_they_know(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
    result = run("predict", photographs / "a.jpg", "-o", tmp_path / "out", "--json")
    assert result.code == 0, result.err
    assert "The default weights know street scenes only: sky, building" in result.err
    assert "-w deeplab_v3.mobilenet_v2.voc, which downloads 2 MB" in result.err
    json.loads(result.out)  # nothing else
    result = run("predict", photographs / "a.jpg", "-o", tmp_path / "other", "-w", weights)
    assert "default weights" not in result.err


@pytest.fixture
def site(photographs: Path) -> Iterator[str]:
    """The address of a server of the photographs."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Print nothing."""

    handler = partial(Quiet, directory=str(photographs))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_images_of_the_web(run: Run, site: str, photographs: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("predict", f"{site}/a.png?size=large", f"{site}/b.png", "-w", weights, "-o", out)
    result = run(*arguments)
    assert result.code == 2
    assert "an address of a private network" in result.err
    result = run(*arguments, "--allow-private")
    assert result.code == 2
    assert f"1 of 2 images could not be segmented, the others are in {out}" in result.err
    assert f"{site}/b.png: the server answered 404" in result.err
    assert run("predict", photographs / "a.png", "-w", weights, "-o", tmp_path / "local").code == 0
    for name in ("a.png", "a_overlay.png"):
        one, other = (np.asarray(Image.open(folder / name)) for folder in (out, tmp_path / "local"))
        np.testing.assert_array_equal(one, other)
    result = run("predict", f"{site}/notes.txt", "-w", weights, "-o", out, "--allow-private")
    assert f"{site}/notes.txt: not an image in any known format" in result.err
    result = run("predict", f"{site}/clip.mp4", "-w", weights, "-o", out, "--allow-private")
    assert "clip.mp4: videos are not fetched from the web" in result.err


def test_results_of_an_address_are_named_by_its_last_part(tmp_path: Path) -> None:
    names = {
        "http://a/b/street.jpg?x=../../y": "street.png",
        "http://a/b/..%2F..%2Fetc": "etc.png",
        "http://a/..": "image.png",
        "http://a": "image.png",
        "http://a/a%00b%20c.jpg": "a_b_c.png",
        "http://a/" + "x" * 500: "x" * 100 + ".png",
    }
    for url, name in names.items():
        assert plan_images([url], tmp_path)[0].target == tmp_path / name


def test_standard_input(
    run: Run, photographs: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content, code in (((photographs / "a.png").read_bytes(), 0), (b"", 2), (b"text", 2)):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        result = run("predict", "-", "-w", weights, "-o", tmp_path / "out", "--json")
        assert result.code == code
        if code:
            assert "standard input: " in result.err
        else:
            assert json.loads(result.out)["image"] == "-"
            assert Image.open(tmp_path / "out" / "stdin.png").size == (50, 40)


def test_the_labels_of_a_video(run: Run, weights: Path, tmp_path: Path) -> None:
    def film(values: tuple[int, ...]) -> None:
        video = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
        for value in values:
            video.write(np.full((48, 64, 3), value, np.uint8))
        video.release()

    film((0, 60, 128, 255))
    folder = tmp_path / "out" / "a_labels"
    arguments = ("predict", tmp_path / "a.mp4", "-w", weights, "-o", tmp_path / "out", "--format", "png")
    result = run(*arguments, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["labels"] == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == [f"00000{number}.png" for number in (1, 2, 3, 4)]
    segmenter, video = Segmenter.load(weights), cv2.VideoCapture(str(tmp_path / "a.mp4"))
    for path in sorted(folder.iterdir()):
        labels, frame = np.asarray(Image.open(path)), video.read()[1][..., ::-1]
        np.testing.assert_array_equal(labels, segmenter(np.ascontiguousarray(frame)).labels)
    film((0, 60))  # the same file, shorter
    (folder / "notes.png").write_text("not a frame")
    assert run(*arguments).code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["000001.png", "000002.png", "notes.png"]
    (folder / "000007.png").write_text("a photograph of somebody")
    result = run(*arguments)
    assert result.code == 2
    assert "000007.png exists and is not a file of `atrous predict`" in result.err
    result = run(*arguments[:-1], "pgn")
    assert "Unknown format 'pgn': expected png, overlay, npz" in result.err
    assert "Did you mean 'png'" in result.err
    result = run(*arguments[:-1], "png,coco")
    assert "--format coco: videos are written as overlay or png" in result.err


def test_videos_in_a_folder_are_mentioned(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
    (photographs / "deep" / "clip.mp4").write_bytes(b"")
    result = run("predict", photographs, "-w", weights, "-o", tmp_path / "out")
    assert result.code == 0, result.err
    assert f"note: 1 video such as {photographs}/deep/clip.mp4 left out; name videos themselves" in result.err
    result = run("predict", photographs / "deep" / "..", "-w", weights, "-o", tmp_path / "out")
    for name in ("a.jpg", "a.png", "deep/b.jpeg"):
        (photographs / name).unlink()
    result = run("predict", photographs, "-w", weights, "-o", tmp_path / "out")
    assert result.code == 2
    assert "no images, but 1 video such as" in result.err


def test_folders_take_all_formats_of_images(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "formats"
    folder.mkdir()
    for suffix in (".gif", ".jp2", ".tga", ".PGM", ".jfif", ".ico"):
        Image.open(photographs / "a.png").convert("L" if suffix == ".PGM" else "RGB").save(folder / f"a{suffix}")
    result = run("predict", folder, "-w", weights, "-o", tmp_path / "out", "--json")
    assert result.code == 0, result.err
    assert {Path(json.loads(line)["image"]) for line in result.out.splitlines()} == set(folder.iterdir())


def test_a_large_image_is_segmented_in_windows_if_asked(
    run: Run, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atrous.imaging.pixel_limit.MAX_PIXELS", 100 * 80 - 1)
    Image.new("RGB", (100, 80), "green").save(tmp_path / "satellite.tif")
    arguments = ("predict", tmp_path / "satellite.tif", "-w", weights, "-o", tmp_path / "out", "--tile", 33)
    result = run(*arguments)
    assert result.code == 2
    assert "too large" in result.err
    assert "--max-pixels 8000" in result.err
    result = run(*arguments, "--max-pixels", 8000)
    assert result.code == 0, result.err
    assert Image.open(tmp_path / "out" / "satellite.png").size == (100, 80)
    assert run(*arguments, "--max-pixels", 0).code == 2


def test_a_folder_as_annotations(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("predict", photographs, "-w", weights, "-o", out, "--json", "--format")
    formats = "coco,geojson,labelme,png"
    lines = [json.loads(line) for line in run(*arguments, formats).out.splitlines()]
    assert [Path(line["coco"]).name for line in lines] == ["a.coco.json", "a_png.coco.json", "b.coco.json"]
    with redirect_stdout(io.StringIO()):
        coco = COCO(str(out / "annotations.coco.json"))
    names = [coco.imgs[number]["file_name"] for number in (1, 2, 3)]
    assert names == ["a.jpg", "a.png", "deep/b.jpeg"]
    for number, line in enumerate(lines, start=1):
        labels = np.asarray(Image.open(line["labels"]))
        decoded = np.full(labels.shape, 255, np.uint8)
        for annotation in coco.imgToAnns[number]:
            decoded[coco.annToMask(annotation) > 0] = annotation["category_id"]
        np.testing.assert_array_equal(decoded, labels)
    shapes = json.loads((out / "deep" / "b.json").read_text())
    assert (out / "deep" / shapes["imagePath"]).resolve() == (photographs / "deep" / "b.jpeg").resolve()
    assert json.loads((out / "a.geojson").read_text())["name"] == "a.jpg"
    assert not list(out.rglob("*_overlay.png"))

    before = (out / "annotations.coco.json").read_bytes()
    (out / "annotations.coco.json").unlink()
    assert "3 of 3 images were segmented before" in run(*arguments[:-2], "--format", formats).err
    assert (out / "annotations.coco.json").read_bytes() == before  # of finished images
    assert all(json.loads(line)["skipped"] for line in run(*arguments, "coco").out.splitlines())
    assert "3 of 3" not in run(*arguments, "coco", "--polygons", "--simplify", "1").err  # other settings
    assert isinstance(json.loads((out / "a.coco.json").read_text())["annotations"][0]["segmentation"], list)


def test_the_collection_replaces_no_other_file(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "annotations.coco.json").write_text("{}")
    arguments = ("predict", photographs, "-w", weights, "-o", tmp_path / "out", "--format", "coco")
    result = run(*arguments)
    assert result.code == 2
    assert "annotations.coco.json exists and is not a file of `atrous predict`" in result.err
    (photographs / "bad.jpg").write_text("not an image")
    result = run(*arguments, "--overwrite")
    assert "1 of 4 images could not be segmented" in result.err
    assert len(json.loads((tmp_path / "out" / "annotations.coco.json").read_text())["images"]) == 3
    result = run(*arguments, "--simplify", "-1")
    assert "simplify is -1.0; expected a tolerance in pixels" in result.err


@pytest.mark.parametrize(
    ("format", "name", "key"),
    [
        ("labelme", "a.json", "shapes"),
        ("geojson", "a.geojson", "features"),
        ("coco", "a.coco.json", "annotations"),
        ("coco", "annotations.coco.json", "annotations"),
    ],
)
def test_annotations_corrected_by_hand_are_not_replaced(
    run: Run, photographs: Path, weights: Path, tmp_path: Path, format: str, name: str, key: str
) -> None:
    corrected = tmp_path / "out" / name
    arguments = ("predict", photographs, "-w", weights, "-o", tmp_path / "out", "--format", format)
    assert run(*arguments).code == 0
    assert "3 of 3 images were segmented before" in run(*arguments).err
    content = {**json.loads(corrected.read_text()), key: []}
    corrected.write_text(json.dumps(content, indent=2))
    for options in ((), ("--simplify", "1")):
        result = run(*arguments, *options)
        assert result.code == 2
        assert f"{corrected} exists and is not a file of `atrous predict`, or was edited" in result.err
    assert json.loads(corrected.read_text()) == content
    assert run(*arguments, "--overwrite").code == 0
    assert json.loads(corrected.read_text())[key]


def test_geotiff_in_and_out(run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    folder, out = tmp_path / "scenes", tmp_path / "out"
    folder.mkdir()
    transform = rasterio.transform.from_origin(5e5, 5e6, 10, 10)
    options = {"driver": "GTiff", "count": 4, "height": 60, "width": 90, "dtype": "uint16"}
    for name in ("a.tif", "b.tiff"):
        with rasterio.open(folder / name, "w", crs="EPSG:32633", transform=transform, **options) as file:
            file.write(np.random.default_rng(0).integers(0, 3000, (4, 60, 90)).astype(np.uint16))
    arguments = ("predict", folder, "-w", weights, "-o", out, "--bands", "3,2,1", "--scale", "0,3000", "--tile", "64")
    result = run(*arguments, "--format", "geotiff,geojson", "--json")
    assert result.code == 0, result.err
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert [(line["width"], line["height"]) for line in lines] == [(90, 60)] * 2
    for line in lines:
        with rasterio.open(line["geotiff"]) as file:
            assert (file.transform, file.crs) == (transform, "EPSG:32633")
            assert (file.read(1) < 21).all()
        first = json.loads(Path(line["geojson"]).read_text())["features"][0]["geometry"]["coordinates"][0]
        assert [5e5, 5e6] in first
    assert "2 of 2 images were segmented before" in run(*arguments, "--format", "geotiff,geojson").err
    assert "2 of 2" not in run(*arguments, "--format", "geojson", "--wgs84").err  # other settings
    assert json.loads((out / "b.geojson").read_text())["features"][0]["geometry"]["coordinates"][0][0][0] < 180
    for options, message in (
        (("--format", "geotiff,png"), "--format geotiff with png: georeferenced images are written as geotiff and"),
        (("--format", "geotiff", "--crf"), "leave out --crf"),
        (("--format", "geotiff", "--bands", "r"), "--bands r: expected numbers separated by commas, such as 3,2,1"),
        (("--format", "geotiff", "--scale", "5"), "--scale 5: expected numbers separated by commas, such as 0,10000"),
        (("--format", "geojson,png"), "have the formats geotiff, geojson, not png"),
    ):
        result = run(*arguments, *options)
        assert result.code == 2
        assert message in result.err


def test_a_georeferenced_photograph_is_noted(run: Run, weights: Path, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    transform = rasterio.transform.from_origin(5e5, 5e6, 10, 10)
    options = {"driver": "GTiff", "count": 3, "height": 60, "width": 90, "dtype": "uint8", "transform": transform}
    with rasterio.open(tmp_path / "a.tif", "w", **options) as file:
        file.write(np.zeros((3, 60, 90), np.uint8))
    result = run("predict", tmp_path / "a.tif", "-w", weights, "-o", tmp_path / "out")
    assert result.code == 0, result.err
    assert "a.tif is georeferenced; --format geotiff,geojson keeps its coordinates" in " ".join(result.err.split())
