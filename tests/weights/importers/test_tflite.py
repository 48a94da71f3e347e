"""TensorFlow Lite graphs, against TensorFlow Lite."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tflite
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

import atrous
from atrous import AtrousError, Segmenter
from atrous.weights import save
from atrous.weights.importers.tflite_graph import Graph
from atrous.weights.importers.tflite_mobilenet import graph_preprocessing

FLOAT, QUANTIZED = "deeplabv3_257_mv_gpu.tflite", "deeplabv3_mnv2_pascal_quant.tflite"
PHOTOGRAPHS = {"cat_720p.jpg": "cat", "parrot.jpg": "bird", "pets.jpg": "dog", "bird.bmp": "bird", "dog.bmp": "dog"}


@pytest.fixture(scope="module")
def weights(shared_data: Path) -> Path:
    return shared_data / "weights"


@pytest.fixture(scope="module")
def images(shared_data: Path) -> Path:
    return shared_data / "images"


@pytest.fixture(scope="module")
def interpreter(weights: Path):
    litert = pytest.importorskip(
        "ai_edge_litert.interpreter", reason="needs the TensorFlow Lite runtime, ai-edge-litert"
    )
    interpreter = litert.Interpreter(str(weights / FLOAT))
    interpreter.allocate_tensors()

    def run(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return run


@pytest.mark.parametrize("name", [*PHOTOGRAPHS, "noise"])
def test_logits_are_the_runtimes(weights: Path, images: Path, interpreter, name: str) -> None:
    if name == "noise":
        image = np.random.default_rng(0).uniform(-1, 1, (1, 257, 257, 3)).astype(np.float32)
    else:
        photograph = Image.open(images / name).convert("RGB").resize((257, 257), Image.Resampling.BILINEAR)
        image = np.asarray(photograph, np.float32)[None] / 127.5 - 1
    with torch.no_grad():
        ours = atrous.load(weights / FLOAT)(torch.from_numpy(image).permute(0, 3, 1, 2))
    theirs = interpreter(image).transpose(0, 3, 1, 2)
    assert np.abs(ours.numpy() - theirs).max() <= 1e-3


def test_the_golden_mask(weights: Path, images: Path) -> None:
    labels = Segmenter.load(weights / FLOAT, device="cpu")(images / "golden_input.jpg").labels
    golden = np.asarray(Image.open(images / "golden_mask.png")) // 10  # horse 130, person 150
    assert (labels == golden).mean() >= 0.99


@pytest.mark.parametrize("file", [FLOAT, QUANTIZED])
def test_what_is_in_the_photographs_is_found(weights: Path, images: Path, file: str) -> None:
    segmenter = Segmenter.load(weights / file, device="cpu")
    for name, animal in PHOTOGRAPHS.items():
        shares = segmenter(images / name).class_fractions()
        shares.pop("background")
        assert max(shares, key=shares.__getitem__) == animal
        assert shares[animal] > 0.1
    assert segmenter(images / "golden_input.jpg").class_fractions()["person"] > 0.2


def test_the_quantized_graph_agrees_with_the_truth_about_the_bird(weights: Path, images: Path) -> None:
    labels = Segmenter.load(weights / QUANTIZED, device="cpu")(images / "bird.bmp").labels
    truth = np.asarray(Image.open(images / "bird_mask.bmp")) > 0
    bird = labels == 3
    assert (bird & truth).sum() / (bird | truth).sum() > 0.9


def test_geometry_is_read_from_the_graph(weights: Path) -> None:
    small, large = atrous.load(weights / FLOAT), atrous.load(weights / QUANTIZED)
    assert (small.output_stride, large.output_stride) == (8, 16)
    assert small.aspp.pooling.window == large.aspp.pooling.window == (33, 33)
    assert small.card.preprocessing.size == (257, 257)
    assert large.card.preprocessing.mean == (128, 128, 128)
    assert large.card.preprocessing.std[0] == pytest.approx(128)
    assert small.card.align_corners
    assert (small.backbone.channels[-1], large.backbone.channels[-1]) == (160, 320)


def test_imported_saved_and_loaded_is_the_same(weights: Path, tmp_path: Path) -> None:
    model = atrous.load(weights / FLOAT)
    again = atrous.load(save(model, tmp_path / "a.safetensors"))
    assert again.card == model.card
    image = torch.rand(1, 3, 257, 257)
    with torch.no_grad():
        assert torch.equal(again(image), model(image))


@pytest.mark.parametrize("keep", [0, 3, 8, 1000, 100_000, -16])
def test_a_truncated_graph_is_refused(weights: Path, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cut.tflite"
    path.write_bytes((weights / FLOAT).read_bytes()[:keep])
    with pytest.raises(AtrousError):
        atrous.load(path)


@settings(max_examples=15)
@example(where=0.0783, value=1, at_end=True)  # the options of an operator
@given(where=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), at_end=st.booleans())
def test_a_damaged_graph_is_refused_or_read_but_never_crashes(
    weights: Path, tmp_path: Path, where: float, value: int, at_end: bool
) -> None:
    data = bytearray((weights / FLOAT).read_bytes())
    tables = 40_000  # the tables lie at the end, the constants before them
    data[int(len(data) - where * tables) - 1 if at_end else int(where * (len(data) - 1))] = value
    path = tmp_path / "damaged.tflite"
    path.write_bytes(data)
    try:
        model = atrous.load(path)
    except AtrousError:
        return
    assert model.num_classes >= 1


@pytest.mark.parametrize(("kind", "zero"), [("UINT8", 128), ("INT8", 0)])
def test_signed_and_unsigned_inputs_are_normalized_alike(kind: str, zero: int, weights: Path) -> None:
    graph = Graph(weights / QUANTIZED)
    stored = graph._tensors[graph.input]
    graph._tensors[graph.input] = replace(
        stored, kind=getattr(tflite.TensorType, kind), scale=np.array([1 / 128]), zero=np.array([zero])
    )
    preprocessing = graph_preprocessing(graph)
    assert (preprocessing.mean, preprocessing.std) == ((128.0,) * 3, (128.0,) * 3)


def test_another_network_is_refused_by_the_operator_that_does_not_belong(weights: Path) -> None:
    with pytest.raises(AtrousError, match=r"operator \d+ \(\w+\) is not as in a DeepLab v3"):
        atrous.load(weights / "tf2_mobilenet_v2_1.0_224_ptq.tflite")


@pytest.mark.parametrize("index", [-(2**31), -500, -2, -1, 100_000])
def test_a_tensor_that_does_not_exist_is_refused(weights: Path, tmp_path: Path, index: int) -> None:
    original = weights / FLOAT
    conv = next(operator for operator in Graph(original).operators if operator.name == "CONV_2D")
    inputs = struct.pack("<4i", 3, *conv.inputs)
    content = original.read_bytes()
    assert content.count(inputs) == 1
    path = tmp_path / "damaged.tflite"
    path.write_bytes(content.replace(inputs, struct.pack("<4i", 3, conv.inputs[0], conv.inputs[1], index)))
    with pytest.raises(AtrousError, match="a tensor that does not exist"):
        atrous.load(path)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_an_input_with_a_senseless_scale_is_refused(weights: Path, tmp_path: Path, scale: float) -> None:
    original = weights / QUANTIZED
    graph = Graph(original)
    quantization = graph.quantization(graph.input)
    assert quantization is not None
    stored = struct.pack("<If", 1, quantization[0])
    content = original.read_bytes()
    assert stored in content
    path = tmp_path / "damaged.tflite"
    path.write_bytes(content.replace(stored, struct.pack("<If", 1, scale)))
    with pytest.raises(AtrousError, match="scale"):
        atrous.load(path)
