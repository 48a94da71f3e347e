"""The command line as it is typed, in this process: what it prints, writes, and how it ends."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.weights import save
from tests.cli.conftest import Run
from tests.pictures import bomb


@pytest.fixture
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from atrous import create_model
    from atrous.card import Card, Preprocessing
    from atrous.data.datasets import voc

    torch.manual_seed(0)
    model = create_model("deeplab_v3.mobilenet_v2", width=0.125)
    model.card = Card(
        model="deeplab_v3.mobilenet_v2",
        arguments={"width": 0.125},
        classes=voc.CLASSES,
        colors=voc.COLORS,
        preprocessing=Preprocessing(resize="squeeze", size=(33, 33)),
    )
    return save(model, tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    (folder / "deep").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    for name in ("a.jpg", "a.png", "deep/b.jpeg"):
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


class TestPredict:
    def test_a_folder(self, run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
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

    def test_a_pattern_and_json(self, run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
        result = run("predict", f"{photographs}/*.png", "-w", weights, "-o", tmp_path / "out", "--json")
        (line,) = map(json.loads, result.out.splitlines())
        assert line["width"], line["height"] == (50, 40)
        assert sum(line["classes"].values()) == pytest.approx(1, abs=1e-3)
        assert Path(line["overlay"]).is_file()

    def test_one_bad_image_does_not_stop_the_others(
        self, run: Run, photographs: Path, weights: Path, tmp_path: Path
    ) -> None:
        (photographs / "0.jpg").write_text("not a picture")
        result = run("predict", photographs, "-w", weights, "-o", tmp_path / "out")
        assert result.code == 2
        assert "1 of 4 images could not be segmented" in result.err
        assert "0.jpg: not an image" in result.err
        assert len(list((tmp_path / "out").rglob("*_overlay.png"))) == 3

    def test_another_output_stride(self, run: Run, photographs: Path, weights: Path, tmp_path: Path) -> None:
        arguments = ("predict", photographs / "a.jpg", "-w", weights, "-o", tmp_path / "out", "--output-stride")
        assert run(*arguments, 8).code == 0
        result = run(*arguments, 12)
        assert result.code == 2
        assert "output_stride 12" in result.err

    def test_an_image_is_never_overwritten(self, run: Run, photographs: Path, weights: Path) -> None:
        before = (photographs / "a.png").read_bytes()
        result = run("predict", photographs / "a.png", "-w", weights, "-o", photographs)
        assert result.code == 2
        assert "would overwrite an image" in result.err
        assert (photographs / "a.png").read_bytes() == before

    def test_ctrl_c_keeps_what_is_done(
        self, run: Run, photographs: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from atrous.inference import Segmenter

        original, calls = Segmenter.__call__, []

        def interrupted(self, image):
            calls.append(image)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return original(self, image)

        monkeypatch.setattr(Segmenter, "__call__", interrupted)
        result = run("predict", photographs, "-w", weights, "-o", tmp_path / "out")
        assert result.code == 130
        assert "stopped after 1 of 3 images" in result.err
        assert len(list((tmp_path / "out").rglob("*.png"))) == 2

    def test_ids_are_found_in_folders(
        self, run: Run, photographs: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        (_bomb, "it was not decoded"),
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


def _cut(path: Path, weights: Path) -> Path:
    path.write_bytes(weights.read_bytes()[:-50])
    return path


def _changed(path: Path, weights: Path) -> Path:
    data = bytearray(weights.read_bytes())
    data[-1000] ^= 255
    path.write_bytes(data)
    return path


def _half_graph(path: Path, weights: Path) -> Path:
    path = path.with_suffix(".tflite")
    path.write_bytes(b"\x1c\0\0\0TFL3" + b"\0" * 50)
    return path


def _other_graph(path: Path, weights: Path) -> Path:
    path = path.with_name("deeplabv3_257_mv_gpu.tflite")
    path.write_bytes(b"\x1c\0\0\0TFL3" + b"\0" * 50)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_cut, "truncated or altered"),
        (_changed, "truncated or altered"),
        (_half_graph, "truncated or altered"),
        (_other_graph, "not those released"),
        (lambda path, weights: "deeplab_v3.mobilenet_v2.vok", "Did you mean 'deeplab_v3.mobilenet_v2.voc'"),
        (lambda path, weights: path.with_name("missing.safetensors"), "no such file"),
    ],
)
def test_bad_weights_are_one_line_and_code_2(
    run: Run, photographs: Path, weights: Path, tmp_path: Path, make, message: str
) -> None:
    bad = make(tmp_path / "bad.safetensors", weights)
    for command in (("predict", photographs, "-w", bad, "-o", tmp_path / "out"), ("info", bad)):
        if command[0] == "info" and make is _changed:
            continue  # the card alone is whole
        result = run(*command)
        assert result.code == 2
        assert message in result.err
        assert len(result.err.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_told_before_the_work(
    run: Run, photographs: Path, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    result = run("predict", photographs, "-w", weights, "-o", tmp_path / "file" / "out")
    assert result.code == 2
    assert "is a file" in result.err
    assert not result.out


class TestOthers:
    def test_models(self, run: Run) -> None:
        result = run("models", "deeplab_v3.mobilenet_v2")
        assert "2,113,557" in result.out
        assert "2.74 G" in result.out
        assert "16 8 32" in result.out
        assert "Chen et al., arXiv 1706.05587" in result.out
        assert "resnet" not in result.out
        assert run("models", "nothing").code == 2

    def test_explain(self, run: Run) -> None:
        result = run("explain", "deeplab_v3.mobilenet_v2", "--output-stride", "8", "--size", "257x129")
        assert result.code == 0, result.err
        assert "backbone.features.17" in result.out
        assert "33x17" in result.out
        assert "2,113,557 parameters" in result.out
        assert "features.17.conv.1.0" in run("explain", "deeplab_v3.mobilenet_v2", "--layers").out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("deeplab_v3.resnet5",), "Did you mean 'deeplab_v3.resnet50'"),
            (("deeplab_v3.resnet50", "--size", "513"), "513x513"),
            (("deeplab_v3.resnet50", "--output-stride", "12"), "this network runs at"),
        ],
    )
    def test_explain_says_what_is_wrong(self, run: Run, arguments: tuple[str, ...], message: str) -> None:
        result = run("explain", *arguments)
        assert result.code == 2
        assert message in result.err
        assert len(result.err.strip().splitlines()) == 1

    def test_weights(self, run: Run) -> None:
        assert "deeplab_v3.mobilenet_v2_x0.5.voc" in run("weights", "voc").out
        assert run("weights", "nothing").code == 2

    def test_info(self, run: Run, weights: Path) -> None:
        assert "deeplab_v3.mobilenet_v2" in run("info", weights).out
        assert json.loads(run("info", weights, "--json").out)["arguments"] == {"width": 0.125}

    def test_import_weights(self, run: Run, shared_data: Path, tmp_path: Path) -> None:
        graph = shared_data / "weights" / "deeplabv3_257_mv_gpu.tflite"
        result = run("import-weights", graph, "-o", tmp_path / "a.safetensors")
        assert result.code == 0, result.err
        assert "DeepLabV3, 21 classes" in result.out
        assert os.listdir(tmp_path) == ["a.safetensors"]
        photograph = shared_data / "images" / "cat_720p.jpg"
        result = run("predict", photograph, "-w", tmp_path / "a.safetensors", "-o", tmp_path / "out", "--json")
        assert json.loads(result.out)["classes"]["cat"] > 0.3

    def test_import_weights_of_an_unknown_kind(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "a.h5").write_text("")
        assert "'.h5'" in run("import-weights", tmp_path / "a.h5", "-o", tmp_path / "a.safetensors").err

    def test_typos(self, run: Run) -> None:
        result = run("predit", "a.jpg")
        assert result.code == 2
        assert "predict" in result.err

    @pytest.mark.parametrize("command", ["predict", "models", "explain", "weights", "info", "import-weights"])
    def test_help_has_examples(self, run: Run, command: str) -> None:
        result = run(command, "--help")
        assert result.code == 0
        assert f"atrous {command}" in result.out
