from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from atrous import AtrousError
from atrous.inference.engines import create
from atrous.inference.engines.cache import cache_folder
from atrous.inference.engines.convert import describe_network, to_onnx
from atrous.inference.engines.create import create_engine, resolve_device
from atrous.inference.engines.engine import ConversionError
from atrous.inference.engines.onnxruntime import OnnxRuntimeEngine
from atrous.weights import save, write_card
from tests.inference.engines.examples import eager_scores, images, relative_difference, small_network

pytest.importorskip("onnx")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of a small network, and a cache of their own."""
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "cache"))
    return save(small_network(), tmp_path / "weights.safetensors")


def entries() -> list[Path]:
    return sorted(cache_folder().glob("*.onnx"))


def count_conversions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    conversions: list[int] = []

    def convert(*arguments: object) -> bytes:
        conversions.append(1)
        return to_onnx(*arguments)

    monkeypatch.setattr("atrous.inference.engines.convert.to_onnx", convert)
    return conversions


@pytest.mark.parametrize(("engine", "precision"), [("auto", "auto"), ("torch", "float32"), ("openvino", "float32")])
def test_engines_agree_at_both_strides(engine: str, precision: str, weights: Path) -> None:
    if engine == "openvino":
        pytest.importorskip("onnx")
    for stride in (None, 8):
        created = create_engine(weights, engine=engine, precision=precision, device="cpu", output_stride=stride)
        model = small_network()
        model = model if stride is None else model.set_output_stride(stride)
        assert created.name == ("onnxruntime" if engine == "auto" else engine)
        assert created.output_stride == model.output_stride
        assert relative_difference(created(images(1, 70, 61)), eager_scores(model, images(1, 70, 61))) < 1e-3


def test_a_network_is_converted_once(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conversions = count_conversions(monkeypatch)
    scores = [create_engine(weights, device="cpu")(images(1, 65, 65)) for _ in range(3)]
    assert len(conversions) == len(entries()) == 1
    assert all(np.array_equal(other, scores[0]) for other in scores)
    create_engine(weights, device="cpu", output_stride=8)
    assert len(conversions) == len(entries()) == 2


def test_a_deferred_conversion_takes_place_at_the_second_use(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conversions = count_conversions(monkeypatch)
    names = [create_engine(weights, device="cpu", defer_conversion=True).name for _ in range(3)]
    assert names == ["eager", "onnxruntime", "onnxruntime"]
    assert len(conversions) == len(entries()) == 1
    asked_for = create_engine(weights, engine="onnxruntime", device="cpu", output_stride=8, defer_conversion=True)
    assert asked_for.name == "onnxruntime"


def test_a_precision_that_is_asked_for_is_not_deferred(weights: Path) -> None:
    pytest.importorskip("openvino")
    names = [create_engine(weights, precision="bfloat16", device="cpu", defer_conversion=True).name for _ in range(2)]
    assert names == ["openvino", "openvino"]


def test_other_weights_of_the_same_name_are_converted(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conversions = count_conversions(monkeypatch)
    create_engine(weights, device="cpu")
    model = small_network()
    torch.nn.init.zeros_(model.classifier.weight)
    save(model, weights)
    engine = create_engine(weights, device="cpu")
    assert len(conversions) == 2
    assert relative_difference(engine(images(1, 65, 65)), eager_scores(model, images(1, 65, 65))) < 1e-3


def test_another_card_needs_no_conversion(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conversions = count_conversions(monkeypatch)
    create_engine(weights, device="cpu")
    card = small_network().card.model_copy(update={"source": "somewhere"})
    write_card(weights, card)
    assert create_engine(weights, device="cpu").metadata.card == card
    assert len(conversions) == 1


@pytest.mark.parametrize("damage", [b"", b"no network", None])
def test_a_damaged_entry_is_made_anew(damage: bytes | None, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_engine(weights, device="cpu")
    (entry,) = entries()
    content = entry.read_bytes()
    entry.write_bytes(content[:-100] + bytes(100) if damage is None else damage)
    conversions = count_conversions(monkeypatch)
    create_engine(weights, device="cpu")
    assert len(conversions) == 1
    assert entries() == [entry]
    assert entry.stat().st_size == len(content)


def test_a_read_only_cache(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")  # a folder below a file is not writable even for root
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "file"))
    engine = create_engine(weights, device="cpu")
    assert engine.name == "onnxruntime"
    assert relative_difference(engine(images(1, 65, 65)), eager_scores(small_network(), images(1, 65, 65))) < 1e-3


def test_damaged_weights_are_refused_even_if_cached(weights: Path) -> None:
    create_engine(weights, device="cpu")
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(AtrousError, match="the checksum of the tensors differs"):
        create_engine(weights, device="cpu")


def test_a_network_with_a_crf_runs_by_torch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = small_network("crf_rnn.vgg16")
    weights = save(model, tmp_path / "weights.safetensors")
    with caplog.at_level(logging.INFO, "atrous"):
        engine = create_engine(weights, device="cpu")
    assert engine.name == "torch"
    assert "ModelWithCRF contains operations that only torch has" in caplog.text
    with pytest.raises(ConversionError, match="use the engine 'torch'"):
        create_engine(weights, engine="onnxruntime")


def test_a_conversion_that_changes_the_scores_is_noticed(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = small_network()
    torch.nn.init.normal_(other.classifier.weight)
    content = to_onnx(other, describe_network(other, other.card))
    monkeypatch.setattr("atrous.inference.engines.convert.to_onnx", lambda *_: content)
    with pytest.raises(ConversionError, match="DeepLabV3 computes other scores after conversion"):
        create_engine(weights, engine="onnxruntime", device="cpu")
    assert entries() == []
    assert create_engine(weights, device="cpu").name == "torch"


def test_without_onnxruntime(weights: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(create, "is_installed", lambda name: False)
    with caplog.at_level(logging.INFO, "atrous"):
        assert create_engine(weights, device="cpu").name == "torch"
    assert "onnxruntime is not installed" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "onnx"}, r"There is no engine 'onnx'\. Did you mean 'onnxruntime'"),
        ({"precision": "float16"}, r"There is no precision 'float16'\. Did you mean 'bfloat16'"),
        ({"precision": "int8"}, r"not quantized\. Make a quantized network with `atrous quantize`"),
        (
            {"engine": "onnxruntime", "precision": "bfloat16"},
            r"does not compute in bfloat16: use torch or compile or o",
        ),
        ({"engine": "openvino", "device": "cuda"}, r"runs on the CPU, not on 'cuda'"),
        ({"output_stride": 12}, r"output_stride 12: this network runs at"),
    ],
)
def test_what_is_not_supported(options: dict[str, object], message: str, weights: Path) -> None:
    with pytest.raises(AtrousError, match=message):
        create_engine(weights, **{"device": "cpu", **options})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = small_network()
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    path.write_bytes(to_onnx(model, describe_network(model, model.card)))
    return path


def test_an_exported_network(exported: Path) -> None:
    engine = create_engine(exported, output_stride=16)
    assert isinstance(engine, OnnxRuntimeEngine)
    assert relative_difference(engine(images(1, 65, 65)), eager_scores(small_network(), images(1, 65, 65))) < 1e-3
    assert entries() == [] or all(os.path.samefile(entry.parent, cache_folder()) for entry in entries())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "torch"}, r"the engine 'torch' does not run \.onnx files: use onnxruntime or openvino"),
        ({"device": "cuda"}, r"exported networks run on the CPU, not on 'cuda'"),
        ({"output_stride": 8}, r"exported at output stride 16, which is fixed\. .*--output-stride 8"),
        ({"precision": "int8"}, r"this network computes in float32, not in int8"),
        ({"precision": "bfloat16"}, r"'onnxruntime' does not compute in bfloat16"),
    ],
)
def test_what_an_exported_network_does_not_support(options: dict[str, object], message: str, exported: Path) -> None:
    with pytest.raises(AtrousError, match=message):
        create_engine(exported, **options)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("cuda:1") == "cuda:1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
