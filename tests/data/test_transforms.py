"""Transforms keep image and labels aligned."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from atrous import AtrousError
from atrous.data.transforms import (
    TRANSFORMS,
    ColorJitter,
    Compose,
    Pad,
    RandomBlur,
    RandomCrop,
    RandomElastic,
    RandomFlip,
    RandomMarginCrop,
    RandomRotation,
    RandomScale,
    Resize,
    as_transform,
)

MEAN = (9.0, 9.0, 9.0)
FLAT = {  # those that move pixels, or none
    "flip": RandomFlip(),
    "crop": RandomCrop(17, 23, mean=MEAN),
    "aware crop": RandomCrop(9, 40, class_aware=1.0, mean=MEAN),
    "pad": Pad(30, 31, mean=MEAN),
    "no rotation": RandomRotation(probability=0.0),
}
MOVING = FLAT | {
    "scale": RandomScale(),
    "scale in steps": RandomScale(step=0.25),
    "rotation": RandomRotation(30, probability=1.0, mean=MEAN),
    "resize": Resize(21, 34),
    "elastic": RandomElastic(sigma=3, mean=MEAN),
}

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
seeds = st.integers(0, 2**32)


@pytest.mark.parametrize("name", FLAT)
@given(labels=arrays(np.uint8, sizes, elements=st.sampled_from([0, 3, 7, 255])), seed=seeds)
def test_every_pixel_keeps_its_label(name: str, labels: np.ndarray, seed: int) -> None:
    """The labels are written into the image as well, and must be the same after."""
    image = np.dstack([labels] * 3)
    changed, after = FLAT[name](image, labels, np.random.default_rng(seed))
    padded = (changed == MEAN).all(2) & (after == 255)
    assert ((changed[..., 0] == after) | padded).all()
    assert after.dtype == labels.dtype


@pytest.mark.parametrize("name", MOVING)
@given(size=sizes, seed=seeds, dtype=st.sampled_from([np.uint8, np.uint16]))
def test_no_new_labels_and_equal_sizes(name: str, size: tuple[int, int], seed: int, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([0, 5, 9, 255], dtype), size)
    image, after = MOVING[name](rng.integers(0, 255, (*size, 3), np.uint8), labels, rng)
    assert image.shape == (*after.shape, 3)
    assert image.dtype == np.uint8
    assert after.dtype == dtype
    assert image.flags.c_contiguous
    assert after.flags.c_contiguous
    assert set(np.unique(after)) <= set(np.unique(labels)) | {255}


@pytest.mark.parametrize("name", ["scale", "rotation", "resize", "elastic"])
@given(seed=seeds)
def test_image_and_labels_are_sampled_at_the_same_positions(name: str, seed: int) -> None:
    """Ramps in the image and in the labels agree to half a step after any warp, so neither is shifted."""
    for axis, ramp in enumerate(np.indices((40, 40))):
        labels = (ramp * 6).astype(np.uint8)
        image, after = MOVING[name](np.dstack([labels] * 3), labels, np.random.default_rng(seed))
        middle = tuple(slice(side // 3, -(side // 3)) for side in after.shape)  # a rotation fills the corners
        difference = (image[..., 0].astype(int) - after)[middle]
        assert np.abs(difference).max() <= 6
        half = 2 * after.shape[axis] == 40  # then two pixels are equally near
        assert abs(difference.mean()) < (3.5 if half else 1.2)


@pytest.mark.parametrize("transform", [*MOVING.values(), RandomBlur(), ColorJitter()])
def test_the_generator_is_the_only_randomness(transform: Callable) -> None:
    rng = np.random.default_rng(0)
    image, labels = rng.integers(0, 255, (30, 30, 3), np.uint8), rng.integers(0, 3, (30, 30), np.uint8)
    before = image.copy(), labels.copy()
    once, again = (transform(image, labels, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(once[0], again[0])
    np.testing.assert_array_equal(once[1], again[1])
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(labels, before[1])


@pytest.mark.parametrize("transform", [RandomBlur(probability=1.0), ColorJitter()])
def test_color_transforms_keep_the_labels(transform: Callable) -> None:
    rng = np.random.default_rng(1)
    image, labels = rng.integers(0, 255, (30, 31, 3), np.uint8), rng.integers(0, 3, (30, 31), np.uint8)
    changed, after = transform(image, labels, rng)
    assert (changed != image).any()
    assert after is labels


def test_no_jitter_is_no_change() -> None:
    image = np.random.default_rng(1).integers(0, 255, (30, 31, 3), np.uint8)
    changed, _ = ColorJitter(0, 0, 0, 0)(image, image[..., 0], np.random.default_rng(0))
    np.testing.assert_array_equal(changed, image)


def test_scales_are_in_the_given_range() -> None:
    labels = np.zeros((100, 200), np.uint8)
    rng = np.random.default_rng(0)
    heights = [RandomScale(step=0.25)(np.dstack([labels] * 3), labels, rng)[1].shape[0] for _ in range(80)]
    assert set(heights) == {50, 75, 100, 125, 150, 175, 200}
    free = [RandomScale(0.5, 2.0)(np.dstack([labels] * 3), labels, rng)[1].shape for _ in range(80)]
    assert min(free)[0] < 65
    assert max(free)[0] > 180
    assert all(abs(2 * height - width) <= 1 for height, width in free)


def test_class_aware_crops_find_the_rare_class() -> None:
    labels = np.zeros((200, 200), np.uint8)
    labels[150:153, 20:23] = 1
    image = np.dstack([labels] * 3)
    rng = np.random.default_rng(0)
    found = {
        aware: sum((RandomCrop(32, 32, class_aware=aware)(image, labels, rng)[1] == 1).any() for _ in range(200))
        for aware in (0.0, 1.0)
    }
    assert found[1.0] >= 80  # half of the crops, but for windows cut by the border
    assert found[0.0] < 30


def test_a_class_aware_crop_of_ignored_pixels() -> None:
    labels = np.full((50, 50), 255, np.uint8)
    _, after = RandomCrop(20, 20, class_aware=1.0)(np.dstack([labels] * 3), labels, np.random.default_rng(0))
    assert (after == 255).all()


def test_crops_reach_every_corner() -> None:
    labels = np.arange(36, dtype=np.uint8).reshape(6, 6)
    rng = np.random.default_rng(0)
    corners = {int(RandomCrop(3, 3)(np.dstack([labels] * 3), labels, rng)[1][0, 0]) for _ in range(500)}
    assert corners == {row * 6 + column for row in range(4) for column in range(4)}


def test_elastic_deformation_is_smooth_and_has_the_size_of_its_sigma() -> None:
    """Positions of pixels, read off ramps: displacements at the centers of 3 x 3 cells have the standard deviation."""
    height, width = 90, 120
    columns = np.broadcast_to(np.arange(width, dtype=np.uint8), (height, width))
    ramp = np.ascontiguousarray(np.stack([columns] * 3, -1))
    shifts = []
    for seed in range(60):
        transform = RandomElastic(sigma=4.0, ignore_index=255)
        _, moved = transform(ramp, np.ascontiguousarray(columns), np.random.default_rng(seed))
        shift = np.where(moved == 255, 0, moved.astype(int) - columns)
        assert abs(np.diff(shift[25:65, 30:90], axis=1)).max() <= 2
        shifts.append(shift[45, 60])
    assert 3 < np.std(shifts) < 5
    same = RandomElastic(sigma=0.0)(ramp, np.ascontiguousarray(columns), np.random.default_rng(0))
    assert (same[0] == ramp).all()
    assert (same[1] == columns).all()


@pytest.mark.parametrize("size", [(30, 41), (200, 700), (1000, 3)])
def test_crops_that_contain_a_margin(size: tuple[int, int]) -> None:
    """Dilated's: 16 x 16 labels of a crop of 500 pixels, at pixels 186 + 8 k of it; outside of the image none."""
    labels = np.random.default_rng(0).integers(0, 200, size, np.uint8)
    image = np.stack([labels] * 3, -1)
    transform = RandomMarginCrop(500, 500, margin=186, label_stride=8)
    counts = set()
    for seed in range(5):
        crop, cut = transform(image, labels, np.random.default_rng(seed))
        assert (crop.shape, cut.shape, cut.dtype) == ((500, 500, 3), (16, 16), np.uint8)
        valid = cut != 255
        np.testing.assert_array_equal(crop[186:-186:8, 186:-186:8, 0][valid], cut[valid])
        counts.add(int(valid.sum()))
    rows, columns = (min(16, side / 8) for side in size)
    assert all(abs(count - rows * columns) <= rows + columns for count in counts)
    with pytest.raises(AtrousError, match="expected sides above twice the margin"):
        RandomMarginCrop(372, 500, margin=186)


class Theirs:
    """A stand-in with the signature of albumentations."""

    def __call__(self, *arguments: object, **data: np.ndarray) -> dict[str, np.ndarray]:
        assert not arguments
        shift = random.randint(1, 9)
        return {"image": np.roll(data["image"], shift, axis=1), "mask": np.roll(data["mask"], shift, axis=1)}


def test_a_callable_of_albumentations_signature() -> None:
    labels = np.random.default_rng(0).integers(0, 9, (20, 20), np.uint8)
    compose = Compose([RandomFlip(), Theirs(), Pad(30, 30)])
    random.seed(3)
    state = random.getstate()
    once = compose(np.dstack([labels] * 3), labels, np.random.default_rng(1))
    again = compose(np.dstack([labels] * 3), labels, np.random.default_rng(1))
    other = [compose(np.dstack([labels] * 3), labels, np.random.default_rng(seed))[1] for seed in range(9)]
    assert random.getstate() == state
    np.testing.assert_array_equal(once[0], again[0])
    np.testing.assert_array_equal(once[0][:20, :20, 0], once[1][:20, :20])
    assert any((each != once[1]).any() for each in other)


def test_invalid_results_of_albumentations_callables_are_refused() -> None:
    def floats(image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": image / 255, "mask": mask}

    labels = np.zeros((4, 4), np.uint8)
    with pytest.raises(AtrousError, match=r"float64 \(4, 4, 3\)"):
        as_transform(floats)(np.dstack([labels] * 3), labels, np.random.default_rng(0))
    with pytest.raises(AtrousError, match="dict with 'image' and 'mask'"):
        as_transform(lambda image, mask: (image, mask))(np.dstack([labels] * 3), labels, np.random.default_rng(0))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: RandomScale(2.0, 0.5),
        lambda: RandomCrop(0, 5),
        lambda: RandomFlip(1.5),
        lambda: ColorJitter(brightness=2),
        lambda: ColorJitter(hue=0.6),
        lambda: RandomBlur(0),
        lambda: RandomRotation(probability=-1),
    ],
)
def test_arguments_out_of_range(wrong: Callable) -> None:
    with pytest.raises(AtrousError, match=r"expected|empty"):
        wrong()


@pytest.mark.parametrize("name", ["crop", "margin_crop", "pad", "resize"])
@pytest.mark.parametrize("side", [0, -3, 2.5, math.nan, math.inf, "33"])
def test_sides_that_no_image_has(name: str, side: object) -> None:
    with pytest.raises(AtrousError, match=r"expected whole numbers of at least 1"):
        TRANSFORMS[name](**{"height": 33, "width": side} | ({"margin": 3} if name == "margin_crop" else {}))


def test_endless_scales_are_refused() -> None:
    for name in ("scale", "blur"):
        with pytest.raises(AtrousError, match="expected 0 < low <= high"):
            TRANSFORMS[name](low=1.0, high=math.inf)
