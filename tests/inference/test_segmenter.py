from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from atrous import AtrousError, Segmenter, create_model
from atrous.card import Card, Preprocessing
from atrous.inference.preprocess import preprocess
from atrous.inference.segmenter import Segmentation
from atrous.layers.resize import resize
from atrous.models import SegmentationModel

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


class Brightest(SegmentationModel):
    """The class of a pixel is its strongest channel: a network whose right answer is known."""

    num_classes = 3

    def scores(self, image: Tensor) -> Tensor:
        self.seen = image
        return image * 10


def card(**how) -> Card:
    return Card(
        model="none",
        classes=("red", "green", "blue"),
        colors=(RED, GREEN, BLUE),
        preprocessing=Preprocessing(mean=(0, 0, 0), std=(255, 255, 255), **how),
    )


def picture(height: int, width: int) -> np.ndarray:
    """Left red, top right green, bottom right blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 250
    pixels[: height // 2, width // 2 :, 1] = 250
    pixels[height // 2 :, width // 2 :, 2] = 250
    return pixels


@pytest.mark.parametrize(
    ("how", "network_size"),
    [
        ({}, (60, 80)),
        ({"resize": "squeeze", "size": (33, 33)}, (33, 33)),
        ({"resize": "pad", "size": (100, 90)}, (100, 90)),
        ({"resize": "pad", "size": (40, 40)}, (40, 40)),
        ({"resize": "shorter_side", "size": (30, 30)}, (30, 40)),
        ({"resize": "shorter_side", "size": (30, 30), "grid": 16}, (33, 33)),
        ({"resize": "shorter_side", "size": (30, 30), "grid": 8}, (33, 41)),
        ({"grid": 16}, (65, 81)),
        ({"grid": 32}, (65, 97)),
    ],
)
def test_labels_lie_where_the_image_has_them(how: dict, network_size: tuple[int, int]) -> None:
    model = Brightest()
    found = Segmenter(model, card(**how), device="cpu")(picture(60, 80))
    assert model.seen.shape[-2:] == network_size
    assert found.labels.shape == (60, 80)
    assert found.labels.dtype == np.uint8
    truth = picture(60, 80).argmax(2)
    away = np.ones((60, 80), bool)
    away[:, 37:43] = False
    away[27:33] = False
    assert (found.labels == truth)[away].all()
    assert (found.labels == truth).mean() > 0.95


def test_probabilities_on_request() -> None:
    segmenter = Segmenter(Brightest(), card(), device="cpu")
    assert segmenter(picture(8, 8)).probabilities is None
    found = segmenter(picture(8, 8), probabilities=True)
    assert found.probabilities.shape == (3, 8, 8)
    np.testing.assert_allclose(found.probabilities.sum(0), 1, rtol=1e-5)
    np.testing.assert_array_equal(found.probabilities.argmax(0), found.labels)


def test_bgr_weights_see_bgr() -> None:
    model = Brightest()
    Segmenter(model, card(channel_order="BGR"), device="cpu")(picture(8, 8))
    assert model.seen[0, 2, 0, 0] > 0.9  # red comes last


def test_padding_holds_the_mean() -> None:
    how = Preprocessing(resize="pad", size=(6, 7), mean=(10, 20, 30), std=(2, 2, 2))
    tensor, content = preprocess(np.full((4, 5, 3), 50, np.uint8), how)
    assert content == (4, 5)
    assert tensor.shape == (3, 6, 7)
    assert torch.equal(tensor[:, 0, 0], torch.tensor([20.0, 15.0, 10.0]))
    assert (tensor[:, 4:] == 0).all()
    assert (tensor[:, :, 5:] == 0).all()


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    mode=st.sampled_from(["keep", "squeeze", "pad", "shorter_side"]),
    target=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    grid=st.sampled_from([None, 8, 16]),
)
def test_any_size_by_any_way(height: int, width: int, mode: str, target: tuple[int, int], grid: int | None) -> None:
    if mode == "shorter_side" and max(height, width) / min(height, width) * min(target) > 500:
        return
    how = {} if mode == "keep" else {"resize": mode, "size": target}
    if mode in ("keep", "shorter_side"):
        how["grid"] = grid
    model = Brightest()
    found = Segmenter(model, card(**how), device="cpu")(picture(height, width))
    assert found.labels.shape == (height, width)
    if how.get("grid"):
        assert [side % grid for side in model.seen.shape[-2:]] == [1, 1]


def test_a_long_strip_is_refused_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shorter side says nothing of the longer one: 16 x 2000 would be 545 x 67,505."""
    model = create_model("deeplab_v3.mobilenet_v2", num_classes=3, width=0.125)
    segmenter = Segmenter(model, card(resize="shorter_side", size=(540, 720), grid=16), device="cpu")
    monkeypatch.setattr("atrous.inference.segmenter.free_memory", lambda device: 2**20)
    with pytest.raises(AtrousError, match="a network input of 67505 x 545"):
        segmenter(picture(16, 2000))


def test_a_model_without_a_card_is_refused() -> None:
    with pytest.raises(AtrousError, match="no card"):
        Segmenter(Brightest())


def test_the_mode_is_evaluation() -> None:
    model = Brightest()
    model.dropout = nn.Dropout()
    assert not Segmenter(model.train(), card(), device="cpu").model.training


@pytest.fixture
def found() -> Segmentation:
    pixels = picture(60, 80)
    return Segmentation(
        pixels, pixels.argmax(2).astype(np.uint8), ("background", "tree", "sky"), ((0, 0, 0), GREEN, BLUE)
    )


def test_shares_are_sorted_and_sum_to_one(found: Segmentation) -> None:
    assert found.class_fractions() == {"background": 0.5, "tree": 0.25, "sky": 0.25}


def test_saves_a_palette_png_and_an_overlay(found: Segmentation, tmp_path: Path) -> None:
    labels, overlay = found.save(tmp_path / "new" / "a.png")
    with Image.open(labels) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), found.labels)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB"))[0, 79], GREEN)
    with Image.open(overlay) as image:
        assert image.width == 80
        assert image.height > 60  # the legend
    assert sorted(p.name for p in labels.parent.iterdir()) == ["a.png", "a_overlay.png"]


def test_the_overlay_paints_things_and_not_the_background(found: Segmentation) -> None:
    overlay = found.overlay(opacity=0.5, legend=False)
    assert overlay.shape == found.image.shape
    np.testing.assert_array_equal(overlay[5, 5], found.image[5, 5])
    np.testing.assert_allclose(overlay[5, 70], (found.image[5, 70].astype(float) + GREEN) / 2, atol=1)
    assert (overlay == 255).all(2).any()  # an outline


def test_labels_are_not_saved_as_jpeg(found: Segmentation, tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match="JPEG would alter them"):
        found.save(tmp_path / "a.jpg")
    assert not any(tmp_path.iterdir())


def test_the_way_back_is_the_cards(shared_data: Path) -> None:
    """Squeezed to 257, resized to the image with corners aligned: written out once more."""
    segmenter = Segmenter.load(shared_data / "weights" / "deeplabv3_257_mv_gpu.tflite", device="cpu")
    pixels = np.asarray(Image.open(shared_data / "images" / "bird.bmp"))
    tensor, _ = preprocess(pixels, segmenter.card.preprocessing)
    with torch.no_grad():
        logits = resize(segmenter.model(tensor[None]), (513, 513), align_corners=True)
    np.testing.assert_array_equal(segmenter(pixels).labels, logits[0].argmax(0).numpy())
