"""Every engine computes the scores of every registered network, at several sizes and output strides."""

from __future__ import annotations

import copy

import pytest

from atrous import list_models
from atrous.inference.engines.convert import describe_network, to_onnx
from atrous.inference.engines.create import is_installed
from atrous.inference.engines.engine import ConversionError, Engine
from atrous.inference.engines.onnxruntime import OnnxRuntimeEngine
from atrous.inference.engines.openvino import OpenVinoEngine
from atrous.inference.engines.torch import CompiledEngine, TorchEngine
from atrous.models import SegmentationModel
from tests.inference.engines.examples import (
    SIX,
    SIZES,
    eager_scores,
    images,
    relative_difference,
    small_network,
    two_strides,
)


def converted_engines(model: SegmentationModel) -> list[Engine]:
    content = to_onnx(model, describe_network(model, model.card))
    engines: list[Engine] = [OnnxRuntimeEngine(content)]
    if is_installed("openvino"):
        engines.append(OpenVinoEngine(content))
    return engines


def check(engine: Engine, model: SegmentationModel) -> None:
    for size in SIZES:
        batch = images(*size)
        scores = engine(batch)
        difference = relative_difference(
            scores if engine.name in ("onnxruntime", "openvino") else scores.clone(), eager_scores(model, batch)
        )
        assert difference < 1e-3, f"{engine.name} at output stride {model.output_stride}, {size}: {difference}"


@pytest.mark.parametrize("name", SIX)
def test_engines_agree_with_eager_torch(name: str) -> None:
    model = small_network(name)
    for stride in two_strides(model):
        model.set_output_stride(stride)
        for engine in (*converted_engines(model), TorchEngine(copy.deepcopy(model), model.card)):
            check(engine, model)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_engines_agree_on_every_network(name: str) -> None:
    model = small_network(name)
    for stride in two_strides(model):
        model.set_output_stride(stride)
        check(TorchEngine(copy.deepcopy(model), model.card), model)
        if model.is_convertible:
            for engine in converted_engines(model):
                check(engine, model)
        else:
            with pytest.raises(ConversionError):
                converted_engines(model)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIX)
def test_a_compiled_network_agrees(name: str) -> None:
    model = small_network(name)
    check(CompiledEngine(copy.deepcopy(model), model.card), model)
