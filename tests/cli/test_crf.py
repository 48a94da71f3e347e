"""`atrous crf`: refine and tune on the command line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import atrous.crf
from atrous.cli.crf import PRESETS
from atrous.crf import Gaussian
from atrous.data.datasets import voc
from atrous.errors import AtrousError
from atrous.evaluation.crf_search import SearchResult, Trial
from atrous.inference import Segmenter
from tests.cli.conftest import Run, change
from tests.training.conftest import write_folder


@pytest.fixture
def street(tmp_path: Path) -> tuple[Path, Path]:
    """Two halves of an image, and probabilities that miss their border by four columns."""
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:, 20:] = 200
    Image.fromarray(pixels).save(tmp_path / "street.png")
    right = np.where(np.arange(40) < 24, 0.4, 0.8)[None].repeat(30, 0)
    right[:, :16] = 0.1
    np.save(tmp_path / "street.npy", np.stack([1 - right, right]).astype(np.float32))
    return tmp_path / "street.png", tmp_path / "street.npy"


def test_labels_move_to_the_border_of_the_colors(run: Run, street: tuple[Path, Path], tmp_path: Path) -> None:
    result = run("crf", *street, "-o", tmp_path / "out", "--probabilities")
    assert result.code == 0, result.err
    assert "10.00% of the labels changed" in result.out
    labels = np.asarray(Image.open(tmp_path / "out" / "street.png"))
    np.testing.assert_array_equal(labels, np.repeat([[0] * 20 + [1] * 20], 30, 0))
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"street.png", "street_overlay.png", "street_before_overlay.png", "street.npy"}
    np.testing.assert_allclose(np.load(tmp_path / "out" / "street.npy").sum(0), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda maps: maps.transpose(1, 2, 0), "axis"),
        (lambda maps: maps / 2, "must sum to 1"),
        (lambda maps: np.full_like(maps, np.nan), "finite|NaN"),
        (lambda maps: maps[:, :10], "10"),
        (lambda maps: maps[:, :, :0], "0"),
    ],
)
def test_probabilities_of_the_wrong_kind(run: Run, street: tuple[Path, Path], tmp_path: Path, change, message) -> None:
    image, probabilities = street
    np.save(probabilities, change(np.load(probabilities)))
    result = run("crf", image, probabilities, "-o", tmp_path / "out")
    assert result.code == 2
    assert re.search(message, result.err)
    assert len(result.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_files_without_probabilities(run: Run, street: tuple[Path, Path], tmp_path: Path) -> None:
    image, probabilities = street
    assert "No CRF preset 'v3'" in run("crf", *street, "--preset", "v3").err
    assert "no such file" in run("crf", image, tmp_path / "none.npy").err
    probabilities.write_bytes(probabilities.read_bytes()[:-10])
    assert "not a complete .npy file" in run("crf", image, probabilities).err
    np.save(probabilities, np.array([{}], dtype=object), allow_pickle=True)
    assert "not a complete .npy file" in run("crf", image, probabilities).err


def test_a_search_resumes(run: Run, shared_data: Path, tmp_path: Path) -> None:
    arguments = (
        "crf", "tune", "--data", f"voc2012:{shared_data / 'voc2012'}?split=train", "--images", 2, "--iterations", 1,
        "-w", shared_data / "weights" / "deeplabv3_257_mv_gpu.tflite", "-o", tmp_path / "out",
    )  # fmt: skip
    first = run(*arguments)
    assert first.code == 0, first.err
    assert "sigma_alpha" in first.out
    log = (tmp_path / "out" / "search.jsonl").read_text()
    (tmp_path / "out" / "search.jsonl").write_text(log[: len(log) // 2])
    second = run(*arguments)
    assert second.out == first.out
    assert sorted((tmp_path / "out" / "search.jsonl").read_text().splitlines()) == sorted(log.splitlines())


def test_a_search_on_other_data_in_the_same_folder_begins_anew(run: Run, weights: Path, tmp_path: Path) -> None:
    data = write_folder(tmp_path / "mine", voc.CLASSES, images=2)

    def tune(out: str) -> str:
        result = run(
            "crf", "tune", "--data", f"{data}?split=all", "--iterations", 1, "-w", weights, "-o", tmp_path / out
        )
        assert result.code == 0, result.err
        return re.findall(r"mIoU .*", result.out)[0]

    before = tune("first")
    rng = np.random.default_rng(1)
    for file in (tmp_path / "mine").rglob("*.*g"):
        size = Image.open(file).size[::-1]
        pixels = rng.integers(0, 21, size) if "masks" in file.parts else rng.integers(0, 256, (*size, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(file)
    assert tune("first") == tune("second") != before


def test_a_search_keeps_no_probabilities_where_half_of_the_weights_changed(
    run: Run, halves: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(weights: str) -> None:
        raise AtrousError("Stopped before the network is loaded.")

    monkeypatch.setattr(Segmenter, "load", stop)
    encoder, decoder = halves
    data = write_folder(tmp_path / "mine", images=1)
    arguments = (
        "crf", "tune", "--data", f"{data}?split=all", "--iterations", 1, "-w", encoder, "-o", tmp_path / "out",
    )  # fmt: skip
    assert "Stopped" in run(*arguments).err
    (tmp_path / "out" / "probabilities" / "earlier.npy").touch()
    assert "Stopped" in run(*arguments).err
    change(decoder)
    assert "contains the probabilities of other weights" in run(*arguments).err


def test_images_whose_names_differ_in_slashes_alone(run: Run, weights: Path, tmp_path: Path) -> None:
    for name in ("a/b_1.png", "a_b/1.png"):
        for kind in ("images", "masks"):
            path = tmp_path / "mine" / kind / name
            path.parent.mkdir(parents=True)
            Image.fromarray(np.zeros((20, 30), np.uint8)).save(path)
    (tmp_path / "mine" / "classes.yaml").write_text(f"classes: [{', '.join(voc.CLASSES)}]")
    arguments = ("--data", tmp_path / "mine", "--iterations", 1, "-w", weights, "-o", tmp_path / "search")
    assert run("crf", "tune", *arguments).code == 0
    assert len(list((tmp_path / "search" / "probabilities").glob("*.npy"))) == 2


def test_predict_refines_with_default_and_named_preset(run: Run, shared_data: Path, tmp_path: Path) -> None:
    photograph, weights = shared_data / "images" / "dog.bmp", shared_data / "weights" / "deeplabv3_257_mv_gpu.tflite"
    found = {}
    for name, option in {"plain": (), "v2": ("--crf",), "named": ("--crf", "v2"), "v1": ("--crf", "v1")}.items():
        result = run("predict", *option, photograph, "-w", weights, "-o", tmp_path / name)
        assert result.code == 0, result.err
        found[name] = np.asarray(Image.open(tmp_path / name / "dog.png"))
    np.testing.assert_array_equal(found["v2"], found["named"])
    assert 0 < (found["v2"] != found["plain"]).mean() < 0.2
    assert (found["v1"] != found["v2"]).any()


def test_presets_are_those_of_the_crf() -> None:
    assert tuple(atrous.crf.PRESETS) == PRESETS


def test_a_search_that_finds_nothing_better_says_so(
    run: Run, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_folder(tmp_path / "mine", voc.CLASSES, images=1)
    for best, said in ((0.5, True), (0.51, False)):
        found = SearchResult([Trial(3, 30, 3, best)], 0.5, Gaussian(), 1)
        monkeypatch.setattr("atrous.evaluation.crf_search.tune", lambda *args, found=found, **options: found)
        result = run("crf", "tune", "--data", data, "-w", weights, "-o", tmp_path / "search")
        assert result.code == 0, result.err
        assert ("no parameters of the grid are better than no CRF" in result.out) == said
