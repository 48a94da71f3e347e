from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from atrous import AtrousError, Segmenter, create_model, list_models
from atrous.card import Preprocessing
from atrous.imaging.io import resize_image
from atrous.inference import runner, segmenter
from atrous.inference.engines.engine import Engine
from atrous.inference.preprocess import preprocess, resized_size
from atrous.inference.tta import TTAConfig
from atrous.layers.resize import resize
from atrous.weights import save
from tests.inference.engines.examples import small_network
from tests.inference.networks import ChannelNetwork, SmallNetwork, letter_card, noise, quadrants, rgb_card, waves


def test_probabilities_on_request() -> None:
    segmenter = Segmenter(ChannelNetwork(), rgb_card(), device="cpu")
    assert segmenter(quadrants(8, 8)).probabilities is None
    result = segmenter(quadrants(8, 8), probabilities=True)
    assert result.probabilities.shape == (3, 8, 8)
    np.testing.assert_allclose(result.probabilities.sum(0), 1, rtol=1e-5)
    np.testing.assert_array_equal(result.probabilities.argmax(0), result.labels)


@pytest.mark.parametrize("kind", ["path", "str", "pil", "array", "tensor"])
def test_probabilities_and_logits_take_every_kind_of_image(kind: str, tmp_path: Path) -> None:
    segmenter = Segmenter(ChannelNetwork(), rgb_card(), device="cpu")
    pixels = quadrants(20, 30)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    image = {
        "path": path,
        "str": str(path),
        "pil": Image.fromarray(pixels),
        "array": pixels,
        "tensor": torch.from_numpy(pixels).permute(2, 0, 1),
    }[kind]
    expected = torch.from_numpy(pixels.astype(np.float32) / 25.5).permute(2, 0, 1)
    torch.testing.assert_close(segmenter.logits(image), expected)
    torch.testing.assert_close(segmenter.probabilities(image), expected.softmax(0))
    np.testing.assert_array_equal(segmenter(image).labels, segmenter.predict_coarse(image).labels())


def test_probabilities_and_logits_refuse_what_is_not_an_image(tmp_path: Path) -> None:
    segmenter = Segmenter(ChannelNetwork(), rgb_card(), device="cpu")
    for function in (segmenter.probabilities, segmenter.logits):
        with pytest.raises(AtrousError, match="no such file"):
            function(tmp_path / "missing.png")
        with pytest.raises(AtrousError, match="uint8"):
            function(np.zeros((4, 4, 3), np.float32))


def test_a_model_without_a_card_is_refused() -> None:
    with pytest.raises(AtrousError, match="no card"):
        Segmenter(ChannelNetwork())


def test_the_model_is_in_evaluation_mode() -> None:
    model = ChannelNetwork()
    model.dropout = nn.Dropout()
    assert not Segmenter(model.train(), rgb_card(), device="cpu").model.training


@pytest.mark.parametrize("name", [name for name in list_models() if not name.startswith("crf_rnn")])
def test_labels_are_the_argmax_of_the_logits_for_every_network(name: str) -> None:
    """Whatever a network does to its scores: resize, deconvolve, crop."""
    torch.manual_seed(1)
    model = create_model(name, width=0.125, num_classes=3).eval()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d) and not layer.weight.any():
            torch.nn.init.normal_(layer.weight)
    model.card = rgb_card()
    pixels = waves(61, 75)
    result = Segmenter(model, device="cpu")(pixels).labels
    with torch.no_grad():
        logits = model(torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None])[0]
    best = logits.topk(2, 0).values
    clear = (best[0] - best[1] > 1e-3 * best.abs().max()).numpy()
    np.testing.assert_array_equal(result[clear], logits.argmax(0).numpy()[clear])


def test_coarse_scores_are_resized_as_the_card_says(shared_data: Path) -> None:
    """Squeezed to 257, resized to the image with corners aligned: written out once more."""
    segmenter = Segmenter.load(shared_data / "weights" / "deeplabv3_257_mv_gpu.tflite", device="cpu")
    pixels = np.asarray(Image.open(shared_data / "images" / "bird.bmp"))
    planes, _ = preprocess(pixels, segmenter.card.preprocessing)
    with torch.no_grad():
        logits = resize(segmenter.model(torch.from_numpy(planes[None])), (513, 513), align_corners=True)
    np.testing.assert_array_equal(segmenter(pixels).labels, logits[0].argmax(0).numpy())


def test_segment_many_keeps_the_order_of_images_of_mixed_sizes() -> None:
    pictures = [waves(20, 30), waves(20, 30), waves(40, 30), waves(20, 30)]
    segmenter = Segmenter(ChannelNetwork(), rgb_card(), device="cpu")
    for result, pixels in zip(segmenter.segment_many(pictures, batch=4), pictures, strict=True):
        np.testing.assert_array_equal(result.labels, segmenter(pixels).labels)


def test_segment_many_in_batches_equals_single_images() -> None:
    segmenter = Segmenter(SmallNetwork(False), letter_card(False), device="cpu")
    pictures = [noise(40, 50), noise(40, 50), noise(40, 50), noise(33, 20), noise(40, 50)]
    batches: list[int] = []
    network = segmenter.model.body.forward
    segmenter.model.body.forward = lambda x: batches.append(len(x)) or network(x)
    together = list(segmenter.segment_many(pictures, batch=2))
    assert sorted(batches) == [1, 1, 1, 2]  # threads may enter the network in another order
    for picture, result in zip(pictures, together, strict=True):
        np.testing.assert_array_equal(result.labels, segmenter(picture).labels)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_images_before_an_unreadable_one_are_segmented(batch: int) -> None:
    segmenter = Segmenter(SmallNetwork(False), letter_card(False), device="cpu")
    results = segmenter.segment_many([noise(40, 50), noise(40, 50), noise(40, 50), "missing.png"], batch=batch)
    assert [next(results).labels.shape for _ in range(3)] == [(40, 50)] * 3
    with pytest.raises(AtrousError, match=r"missing\.png: no such file"):
        next(results)


def test_images_that_do_not_fit_into_memory_together_are_segmented_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pictures = SmallNetwork(False), [noise(40, 50)] * 4
    many = Segmenter(model, letter_card(False), device="cpu")
    expected = many(pictures[0]).labels
    bytes_of_one = 40 * 50 * many.engine.metadata.bytes_per_pixel / runner.MEMORY_FRACTION
    monkeypatch.setattr(runner, "SMALL_IMAGE_PIXELS", 0)
    monkeypatch.setattr(runner, "free_memory", lambda device: 1.5 * bytes_of_one)
    batches: list[int] = []
    network = model.body.forward
    model.body.forward = lambda x: batches.append(len(x)) or network(x)
    for result in many.segment_many(pictures, batch=2):
        np.testing.assert_array_equal(result.labels, expected)
    assert batches == [1] * 4


def test_a_batch_that_runs_out_of_memory_is_segmented_one_by_one() -> None:
    class OverflowingBatches(SmallNetwork):
        def scores(self, image: Tensor) -> Tensor:
            if len(image) > 1:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99999 bytes.")
            return super().scores(image)

    many = Segmenter(OverflowingBatches(False), letter_card(False), device="cpu")
    pictures = [noise(40, 50), waves(40, 50), noise(40, 50)]
    for picture, result in zip(pictures, many.segment_many(pictures, batch=2), strict=True):
        np.testing.assert_array_equal(result.labels, many(picture).labels)


def test_a_batch_waits_for_memory_that_other_images_occupy(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SmallNetwork(False)
    many = Segmenter(model, letter_card(False), device="cpu")
    assert many.engine.metadata.bytes_per_pixel > 0  # measured by a forward pass of its own
    free = iter([0, 1e12])
    monkeypatch.setattr(runner, "SMALL_IMAGE_PIXELS", 0)
    monkeypatch.setattr(runner, "release_freed_memory", lambda: False)
    monkeypatch.setattr(runner, "free_memory", lambda device: next(free))
    batches: list[int] = []
    network = model.body.forward
    model.body.forward = lambda x: batches.append(len(x)) or network(x)
    assert len(list(many.segment_many([noise(40, 50)] * 2, batch=2))) == 2
    assert batches == [2]


def test_an_image_too_large_for_memory_is_tiled_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runner, "SMALL_IMAGE_PIXELS", 0)
    monkeypatch.setattr(segmenter, "FALLBACK_TILE", 64)
    monkeypatch.setattr(runner, "free_memory", lambda device: 1e6)
    model = SmallNetwork(False)
    with caplog.at_level(logging.WARNING, "atrous"):
        labels = Segmenter(model, letter_card(False), device="cpu")(noise(300, 400)).labels
    assert labels.shape == (300, 400)
    assert "400 x 300 pixels: segmenting it in windows of 64" in caplog.text


def test_memory_is_needed_for_the_largest_scale(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runner, "SMALL_IMAGE_PIXELS", 80 * 100)
    monkeypatch.setattr(segmenter, "FALLBACK_TILE", 64)
    monkeypatch.setattr(runner, "free_memory", lambda device: 1e4)
    model, image = SmallNetwork(False), noise(80, 100)
    for scales, tiled in (((1.0,), False), ((1.0, 1.5), True)):
        with caplog.at_level(logging.WARNING, "atrous"):
            Segmenter(model, letter_card(False), device="cpu", tta=TTAConfig(scales=scales))(image)
        assert ("in windows of 64" in caplog.text) == tiled


def test_memory_kept_from_earlier_images_counts_as_free(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    free = [1e6]
    monkeypatch.setattr(runner, "SMALL_IMAGE_PIXELS", 0)
    monkeypatch.setattr(runner, "free_memory", lambda device: free[-1])
    monkeypatch.setattr(runner, "release_freed_memory", lambda: free.append(1e12) or True)
    with caplog.at_level(logging.WARNING, "atrous"):
        Segmenter(SmallNetwork(False), letter_card(False), device="cpu")(noise(300, 400))
    assert free == [1e6, 1e12]
    assert not caplog.text


def test_a_long_strip_is_refused_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shorter side says nothing of the longer one: 16 x 2000 would be 545 x 67,505."""
    model = create_model("deeplab_v3.mobilenet_v2", num_classes=3, width=0.125)
    segmenter = Segmenter(model, rgb_card(resize="shorter_side", size=(540, 720), grid=16), device="cpu")
    for module in ("runner", "segmenter"):
        monkeypatch.setattr(f"atrous.inference.{module}.free_memory", lambda device: 2**20)
    with pytest.raises(AtrousError, match=r"a network input of 67505 x 545 .* image of 2000 x 16: .*--tile 513"):
        segmenter(quadrants(16, 2000))


class OverflowingNetwork(SmallNetwork):
    """A network that runs out of memory above 100 x 100 pixels."""

    def scores(self, image: Tensor) -> Tensor:
        if image.shape[-1] * image.shape[-2] > 100 * 100:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99999 bytes.")
        return super().scores(image)


def test_running_out_of_memory_falls_back_to_windows(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(segmenter, "FALLBACK_TILE", 64)
    with caplog.at_level(logging.WARNING, "atrous"):
        Segmenter(OverflowingNetwork(False), letter_card(False), device="cpu")(noise(150, 160))
    assert "Memory ran out" in caplog.text


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(700, 300), (90, 1000)])
def test_windows_are_at_the_scale_of_the_card(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, align_corners: bool, size: tuple[int, int]
) -> None:
    model, image = SmallNetwork(align_corners), waves(*size)
    preprocessing = Preprocessing(
        **{**letter_card(align_corners).preprocessing.model_dump(), "resize": "shorter_side", "size": (161, 161)}
    )
    card = letter_card(align_corners).model_copy(update={"preprocessing": preprocessing})
    tiled = Segmenter(model, card, device="cpu", tile=128)
    logits = tiled.logits(resize_image(image, *resized_size(size, preprocessing)))
    expected = resize(logits[None], size, align_corners=align_corners)[0]
    monkeypatch.setattr(segmenter, "FALLBACK_TILE", 128)
    monkeypatch.setattr(runner, "SMALL_IMAGE_PIXELS", 0)
    monkeypatch.setattr(runner, "free_memory", lambda device: 2e6)
    whole = Segmenter(model, card, device="cpu")
    with caplog.at_level(logging.WARNING, "atrous"):
        labels = whole(image).labels
        difference = (whole.logits(image) - expected).abs().mean() / expected.std()
    assert "in windows of 128" in caplog.text
    assert labels.shape == size
    assert difference < 0.02  # one interpolation instead of two
    assert (labels == expected.argmax(0).numpy()).mean() > 0.98


def test_other_errors_are_not_mistaken_for_out_of_memory() -> None:
    class Broken(SmallNetwork):
        def scores(self, image: Tensor) -> Tensor:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        Segmenter(Broken(False), letter_card(False), device="cpu")(noise(40, 40))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_throughput_runs_several_images_at_once_with_the_same_labels(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name)
    pytest.importorskip("onnx")
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("atrous.inference.engines.engine.num_threads", lambda: 2)
    weights = save(small_network(), tmp_path / "weights.safetensors")
    pictures = [waves(40 + 8 * (n % 3), 50 + n) for n in range(12)]
    alone = Segmenter.load(weights, engine=name, device="cpu")
    expected = [alone(pixels).labels for pixels in pictures]
    many = Segmenter.load(weights, engine=name, device="cpu", throughput=True)
    assert (alone.engine.parallel, many.engine.parallel) == (1, 2)
    barrier, together, run = threading.Barrier(2), [], type(many.engine).__call__

    def meet(engine: Engine, batch: np.ndarray) -> np.ndarray:
        barrier.wait(60)  # passes only where two images are in the network at once
        together.append(batch.shape)
        return run(engine, batch)

    monkeypatch.setattr(type(many.engine), "__call__", meet)
    for result, labels in zip(many.segment_many(pictures), expected, strict=True):
        np.testing.assert_array_equal(result.labels, labels)
    assert len(together) == 12
    assert many.network_seconds > 0


def test_a_card_of_other_classes_is_refused() -> None:
    with pytest.raises(AtrousError, match="has 3 outputs, but the card names 5 classes"):
        Segmenter(ChannelNetwork(), letter_card(align_corners=False))
