from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atrous import AtrousError
from atrous.inference.engines.convert import describe_network, to_onnx
from atrous.inference.engines.onnxruntime import OnnxRuntimeEngine
from tests.inference.engines.examples import images, small_network

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def converted() -> bytes:
    model = small_network()
    return to_onnx(model, describe_network(model, model.card))


def test_an_optimized_network_gives_the_same_scores(converted: bytes) -> None:
    engine, content = OnnxRuntimeEngine.optimize(converted)
    optimized = OnnxRuntimeEngine(content, optimized=True)
    assert optimized.metadata == engine.metadata
    for size in ((1, 65, 65), (3, 50, 81)):
        assert np.array_equal(optimized(images(*size)), engine(images(*size)))


@pytest.mark.parametrize(
    "content", [b"", b"not a network", b"\x08\x08"], ids=["an empty file", "text", "a file without a graph"]
)
def test_a_damaged_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(AtrousError, match=r"model.onnx: ONNX Runtime cannot load this file") as error:
        OnnxRuntimeEngine(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.5, 0.999])
def test_a_truncated_file(converted: bytes, tmp_path: Path, share: float) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(converted[: int(share * len(converted))])
    with pytest.raises(AtrousError, match=r"model\.onnx: "):
        OnnxRuntimeEngine(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match=r"model\.onnx: ONNX Runtime cannot load"):
        OnnxRuntimeEngine(tmp_path / "model.onnx")


def test_a_file_of_another_program(tmp_path: Path, converted: bytes) -> None:
    path = tmp_path / "model.onnx"
    model = onnx.load_from_string(converted)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(AtrousError, match=r"model\.onnx: this file has no card.*atrous export"):
        OnnxRuntimeEngine(path)
