from __future__ import annotations

import numpy as np
import pytest
import torch

from atrous.inference.engines.convert import ConversionError, describe_network, to_onnx
from atrous.inference.engines.metadata import METADATA_KEY, encode_metadata
from atrous.inference.engines.onnxruntime import OnnxRuntimeEngine
from atrous.layers.resize import resize
from tests.inference.engines.examples import SIX, SIZES, eager_scores, images, relative_difference, small_network
from tests.inference.networks import SmallNetwork, letter_card

onnx = pytest.importorskip("onnx")


def test_a_converted_network_is_valid_and_keeps_its_metadata() -> None:
    model = small_network(output_stride=8)
    metadata = describe_network(model, model.card)
    content = to_onnx(model, metadata)
    converted = onnx.load_from_string(content)
    onnx.checker.check_model(converted)
    assert {entry.key: entry.value for entry in converted.metadata_props} == {METADATA_KEY: metadata.model_dump_json()}
    engine = OnnxRuntimeEngine(content)
    assert engine.metadata == metadata
    assert (metadata.output_stride, metadata.possible_output_strides) == (8, (1, 2, 4, 8, 16, 32))
    assert metadata.card == model.card
    assert metadata.bytes_per_pixel > 0


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16383, 16384, 100_000])
def test_metadata_of_any_length_are_appended(length: int) -> None:
    value = "å" * (length // 2) + "a" * (length % 2)
    entry = onnx.ModelProto.FromString(encode_metadata("key", value)).metadata_props[0]
    assert (entry.key, entry.value) == ("key", value)


def test_the_model_is_left_as_it_was() -> None:
    model = small_network().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    to_onnx(model, describe_network(model, model.card))
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_network_with_a_crf_is_refused() -> None:
    model = small_network("crf_rnn.vgg16")
    with pytest.raises(ConversionError, match=r"ModelWithCRF contains operations .*use the engine 'torch'"):
        to_onnx(model, describe_network(model, model.card))


def test_an_unknown_operation_is_refused_in_one_line() -> None:
    class Unusual(SmallNetwork):
        def scores(self, image: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(super().scores(image))

    model = Unusual(False)
    with pytest.raises(ConversionError, match=r"Unusual cannot be converted to ONNX \(.*bessel.*\): use the") as error:
        to_onnx(model, describe_network(model, letter_card(False)))
    assert "\n" not in str(error.value)


def test_the_newer_exporter_serves_where_the_older_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    export = torch.onnx.export

    def newer(*arguments: object, dynamo: bool, **options: object) -> object:
        if not dynamo:
            raise TypeError("export() got an unexpected keyword argument")
        return export(*arguments, dynamo=True, **options)

    monkeypatch.setattr(torch.onnx, "export", newer)
    model = SmallNetwork(False)
    engine = OnnxRuntimeEngine(to_onnx(model, describe_network(model, letter_card(False))))
    for size in SIZES:
        assert relative_difference(engine(images(*size)), eager_scores(model, images(*size))) < 1e-5


@pytest.mark.parametrize("align_corners", [False, True])
def test_resizing_within_a_network_keeps_align_corners(align_corners: bool) -> None:
    class Resizing(SmallNetwork):
        def scores(self, image: torch.Tensor) -> torch.Tensor:
            return resize(super().scores(image), (image.shape[2] // 2, 31), align_corners=align_corners)

    model = Resizing(align_corners)
    engine = OnnxRuntimeEngine(to_onnx(model, describe_network(model, letter_card(align_corners))))
    batch = images(2, 90, 70)
    assert relative_difference(engine(batch), eager_scores(model, batch)) < 1e-5


@pytest.mark.parametrize("name", SIX)
def test_any_size_and_batch(name: str) -> None:
    model = small_network(name)
    engine = OnnxRuntimeEngine(to_onnx(model, describe_network(model, model.card)))
    for size in SIZES:
        batch = images(*size)
        assert relative_difference(engine(batch), eager_scores(model, batch)) < 1e-3
        assert np.array_equal(engine(torch.from_numpy(batch)), engine(batch))
