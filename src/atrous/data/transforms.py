"""Augment an image and its labels together, for training.

A transform takes an image (H, W, 3) uint8, labels (H, W) and a NumPy generator, its only source of randomness, and
returns a new image and new labels. Labels are never interpolated: they are sampled by nearest neighbor at the positions
where the image is sampled.
"""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import cv2
import numpy as np

from atrous.errors import AtrousError
from atrous.imaging.io import Pixels
from atrous.imaging.labels import Labels, count_labels

Pair: TypeAlias = tuple[Pixels, Labels]
MEAN = (124, 116, 104)
"""The color that fills pixels outside of the image: ImageNet's mean, in 8 bits."""


class Transform(Protocol):
    """The interface of all transforms."""

    def __call__(self, image: Pixels, labels: Labels, rng: np.random.Generator) -> Pair:
        """Transform an image and its labels.

        Shape: (H, W, 3) uint8 and (H, W) -> (h, w, 3) uint8 and (h, w) of the same type.
        """


@dataclass(frozen=True)
class Compose:
    """Apply transforms one after the other; also callables with albumentations' signature, see `as_transform`."""

    transforms: Sequence[Transform | Callable[..., Any]]

    def __call__(self, image: Pixels, labels: Labels, rng: np.random.Generator) -> Pair:
        for transform in self.transforms:
            image, labels = as_transform(transform)(image, labels, rng)
        return image, labels


@dataclass(frozen=True)
class RandomScale:
    """Scale both sides by a factor drawn uniformly from `low` to `high`, in steps of `step` unless it is 0.

    Source: 0.5 to 2.0, DeepLab v3 (Chen et al., arXiv 1706.05587, section 4.1); in steps of 0.25 in its released code.
    """

    low: float = 0.5
    high: float = 2.0
    step: float = 0.0

    def __post_init__(self) -> None:
        _check(
            0 < self.low <= self.high < math.inf,
            f"RandomScale from {self.low} to {self.high}: expected 0 < low <= high",
        )

    def __call__(self, image: Pixels, labels: Labels, rng: np.random.Generator) -> Pair:
        factor = float(rng.uniform(self.low, self.high))
        if self.step:
            steps = math.floor((self.high - self.low) / self.step + 1e-6)
            factor = self.low + self.step * int(rng.integers(0, steps + 1))
        height, width = (max(1, round(side * factor)) for side in labels.shape)
        return resize_pair(image, labels, height, width)


@dataclass(frozen=True)
class RandomRotation:
    """Rotate about the center by up to `degrees` in either direction, keeping the size; fill pixels from outside."""

    degrees: float = 10.0
    probability: float = 0.5
    mean: tuple[float, float, float] = MEAN
    ignore_index: int = 255

    def __post_init__(self) -> None:
        _check_probability(self.probability)

    def __call__(self, image: Pixels, labels: Labels, rng: np.random.Generator) -> Pair:
        angle = rng.uniform(-self.degrees, self.degrees)
        if rng.random() >= self.probability:
            return image, labels
        height, width = labels.shape
        rotation = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
        size = (width, height)
        rotated = cv2.warpAffine(image, rotation, size, flags=cv2.INTER_LINEAR, borderValue=self.mean)
        nearest = cv2.warpAffine(labels, rotation, size, flags=cv2.INTER_NEAREST, borderValue=self.ignore_index)
        return np.asarray(rotated, np.uint8), np.asarray(nearest, labels.dtype)


@dataclass(frozen=True)
class RandomElastic:
    """Deform by smooth random displacements: those of a coarse `grid` x `grid`, interpolated bicubically.

    Displacements are drawn from a Gaussian of standard deviation `sigma`, in pixels; pixels from outside are filled.

    Source: Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, section 3.1: a 3x3 grid, sigma 10.
    """

    sigma: float = 10.0
    grid: int = 3
    probability: float = 1.0
    mean: tuple[float, float, float] = MEAN
    ignore_index: int = 255

    def __post_init__(self) -> None:
        _check_sides("RandomElastic with a grid", self.grid)
        _check(0 <= self.sigma < math.inf, f"RandomElastic with sigma {self.sigma}: expected 0 or more pixels")
        _check_probability(self.probability)

    def __call__(self, image: Pixels, labels: Labels, rng: np.random.Generator) -> Pair:
        coarse = rng.normal(0, self.sigma, (self.grid, self.grid, 2)).astype(np.float32)
        if rng.random() >= self.probability:
            return image, labels
        height, width = labels.shape
        shift = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, 2)
        x = np.arange(width, dtype=np.float32) + shift[..., 0]
        y = np.arange(height, dtype=np.float32)[:, None] + shift[..., 1]
        deformed = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderValue=self.mean)
        nearest = cv2.remap(labels, x, y, cv2.INTER_NEAREST, borderValue=self.ignore_index)
        return np.asarray(deformed, np.uint8), np.asarray(nearest, labels.dtype)


@dataclass(frozen=True)
class RandomCrop:
    """Crop a random window of `height` x `width`, after padding a smaller image.

    With the probability `class_aware` the window contains a pixel of a class drawn uniformly from the classes in the
    image, whatever their size, so that rare classes occur in more crops.
    """

    height: int
    width: int
    class_aware: float = 0.0
    mean: tuple[float, float, float] = MEAN
    ignore_index: int = 255

    def __post_init__(self) -> None:
        _check_sides("RandomCrop", self.height, self.width)
        _check_probability(self.class_aware)

    def __call__(self, image: Pixels, labels: Labels, rng: np.random.Generator) -> Pair:
        image, labels = pad_pair(image, labels, self.height, self.width, mean=self.mean, ignore_index=self.ignore_index)
        room = (labels.shape[0] - self.height, labels.shape[1] - self.width)
        class_aware = rng.random() < self.class_aware
        center = self._draw_pixel_of_class(labels, rng) if class_aware and max(room) > 0 else None
        top, left = (
            int(rng.integers(0, space + 1))
            if center is None
            else int(np.clip(middle - rng.integers(0, size), 0, space))
            for space, size, middle in zip(room, (self.height, self.width), center or (0, 0), strict=True)
        )
        window = np.s_[top : top + self.height, left : left + self.width]
        return np.ascontiguousarray(image[window]), np.ascontiguousarray(labels[window])

    def _draw_pixel_of_class(self, labels: Labels, rng: np.random.Generator) -> tuple[int, int] | None:
        present = np.flatnonzero(count_labels(labels))
        present = present[present != self.ignore_index]
        if not present.size:
            return None
        positions = np.flatnonzero(labels == rng.choice(present))
        row, column = divmod(int(rng.choice(positions)), labels.shape[1])
        return row, column


@dataclass(frozen=True)
class RandomMarginCrop:
    """Crop a random window whose outer `margin` has no labels: the pixels that unpadded convolutions remove.

    The image is extended by reflection, by the margin and up to the size of the window; the labels there are ignored.
    The result has the labels of the window without its margin, of every `label_stride`-th row and column: with the
    margin of Dilated, 186 pixels, and a stride of 8, a window of 500 x 500 pixels has 16 x 16 labels.

    Shape: (H, W, 3) and (H, W) -> (height, width, 3) and ((height - 2 margin) / label_stride, ...), rounded up.
    Source: `ImageLabelData` layer of Dilated's released training code (fyu/caffe-dilation), `network.py`.
    """

    height: int
    width: int
    margin: int
    label_stride: int = 1
    ignore_index: int = 255

    def __post_init__(self) -> None:
        _check_sides("RandomMarginCrop", self.height, self.width)
        _check_sides("RandomMarginCrop with a label stride", self.label_stride)
        _check(
            isinstance(self.margin, int) and min(self.height, self.width) > 2 * self.margin >= 0,
            f"RandomMarginCrop of {self.height} x {self.width} with margin {self.margin}: expected sides above twice "
            "the margin, which is a whole number",
        )

    def __call__(self, image: Pixels, labels: Labels, rng: np.random.Generator) -> Pair:
        before, after = [], []
        for size, side in zip((self.height, self.width), labels.shape, strict=True):
            missing = max(0, size - side - 2 * self.margin)
            before.append(self.margin + missing // 2)
            after.append(self.margin + missing - missing // 2)
        borders = (before[0], after[0], before[1], after[1])
        image = np.asarray(cv2.copyMakeBorder(image, *borders, cv2.BORDER_REFLECT_101), np.uint8)
        ignored = cv2.copyMakeBorder(labels, *borders, cv2.BORDER_CONSTANT, value=self.ignore_index)
        window = RandomCrop(self.height, self.width, ignore_index=self.ignore_index)
        image, labels = window(image, np.asarray(ignored, labels.dtype), rng)
        inner = slice(self.margin, self.height - self.margin), slice(self.margin, self.width - self.margin)
        return image, np.ascontiguousarray(labels[inner][:: self.label_stride, :: self.label_stride])


@dataclass(frozen=True)
class RandomFlip:
    """Flip horizontally."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        _check_probability(self.probability)

    def __call__(self, image: Pixels, labels: Labels, rng: np.random.Generator) -> Pair:
        if rng.random() >= self.probability:
            return image, labels
        return np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(labels[:, ::-1])


@dataclass(frozen=True)
class RandomBlur:
    """Blur the image by a Gaussian whose sigma, in pixels, is drawn uniformly from `low` to `high`."""

    low: float = 0.1
    high: float = 2.0
    probability: float = 0.5

    def __post_init__(self) -> None:
        _check(
            0 < self.low <= self.high < math.inf, f"RandomBlur from {self.low} to {self.high}: expected 0 < low <= high"
        )
        _check_probability(self.probability)

    def __call__(self, image: Pixels, labels: Labels, rng: np.random.Generator) -> Pair:
        sigma = rng.uniform(self.low, self.high)
        if rng.random() >= self.probability:
            return image, labels
        return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8), labels


@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast and saturation by factors in 1 +- their value, hue by up to `hue` of a circle."""

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.05

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            _check(0 <= getattr(self, name) <= 1, f"ColorJitter with {name} {getattr(self, name)}: expected 0 to 1")
        _check(0 <= self.hue <= 0.5, f"ColorJitter with hue {self.hue}: expected 0 to 0.5")

    def __call__(self, image: Pixels, labels: Labels, rng: np.random.Generator) -> Pair:
        brightness, contrast, saturation = (
            rng.uniform(1 - extent, 1 + extent) for extent in (self.brightness, self.contrast, self.saturation)
        )
        hue_shift = rng.uniform(-self.hue, self.hue)
        middle = float(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean()) * brightness
        table = np.arange(256) * (brightness * contrast) + middle * (1 - contrast)
        image = np.asarray(cv2.LUT(image, np.clip(table.round(), 0, 255).astype(np.uint8)), np.uint8)
        if self.saturation or self.hue:
            hue, color, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL))
            hue = cv2.LUT(hue, ((np.arange(256) + round(hue_shift * 256)) % 256).astype(np.uint8))
            color = cv2.LUT(color, np.clip((np.arange(256) * saturation).round(), 0, 255).astype(np.uint8))
            image = np.asarray(cv2.cvtColor(cv2.merge([hue, color, value]), cv2.COLOR_HSV2RGB_FULL), np.uint8)
        return image, labels


@dataclass(frozen=True)
class Pad:
    """Pad to at least `height` x `width` at the bottom and on the right, with the mean color and the ignore index."""

    height: int
    width: int
    mean: tuple[float, float, float] = MEAN
    ignore_index: int = 255

    def __post_init__(self) -> None:
        _check_sides("Pad", self.height, self.width)

    def __call__(self, image: Pixels, labels: Labels, rng: np.random.Generator) -> Pair:
        return pad_pair(image, labels, self.height, self.width, mean=self.mean, ignore_index=self.ignore_index)


@dataclass(frozen=True)
class Resize:
    """Resize to `height` x `width`, whatever the aspect ratio."""

    height: int
    width: int

    def __post_init__(self) -> None:
        _check_sides("Resize", self.height, self.width)

    def __call__(self, image: Pixels, labels: Labels, rng: np.random.Generator) -> Pair:
        return resize_pair(image, labels, self.height, self.width)


TRANSFORMS: Mapping[str, Callable[..., Transform]] = {
    "scale": RandomScale,
    "rotate": RandomRotation,
    "elastic": RandomElastic,
    "crop": RandomCrop,
    "margin_crop": RandomMarginCrop,
    "flip": RandomFlip,
    "blur": RandomBlur,
    "color": ColorJitter,
    "pad": Pad,
    "resize": Resize,
}
"""Transforms by their names in recipes."""


def resize_pair(image: Pixels, labels: Labels, height: int, width: int) -> Pair:
    """Resize an image bilinearly and its labels by nearest neighbor, both aligned at pixel centers.

    OpenCV's plain INTER_NEAREST is not aligned at pixel centers.
    """
    if labels.shape == (height, width):
        return image, labels
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    nearest = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, np.uint8), np.asarray(nearest, labels.dtype)


def pad_pair(
    image: Pixels, labels: Labels, height: int, width: int, *, mean: tuple[float, float, float], ignore_index: int
) -> Pair:
    """Pad an image and its labels to at least `height` x `width`, at the bottom and on the right."""
    below, right = max(0, height - labels.shape[0]), max(0, width - labels.shape[1])
    if not below and not right:
        return image, labels
    padded = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=mean)
    ignored = cv2.copyMakeBorder(labels, 0, below, 0, right, cv2.BORDER_CONSTANT, value=ignore_index)
    return np.asarray(padded, np.uint8), np.asarray(ignored, labels.dtype)


@dataclass(frozen=True)
class AlbumentationsAdapter:
    """Wrap a callable with albumentations' signature, `t(image=..., mask=...)["image"]`, as a transform.

    It is seeded from the transform's generator: by `set_random_seed` if it has this method, and through the global
    generators of `random` and `numpy.random`, which are restored afterwards.
    """

    function: Callable[..., Any]

    def __call__(self, image: Pixels, labels: Labels, rng: np.random.Generator) -> Pair:
        seed = int(rng.integers(0, 2**32))
        reseed = getattr(self.function, "set_random_seed", None)
        if reseed is not None:
            reseed(seed)
        with _seeded(seed):
            result = self.function(image=image, mask=labels)
        try:
            image, mask = np.asarray(result["image"]), np.asarray(result["mask"])
        except (KeyError, TypeError, IndexError) as error:
            raise AtrousError(
                f"{self.function!r} returned {type(result).__name__}; expected a dict with 'image' and 'mask'."
            ) from error
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.shape[:2] != mask.shape:
            raise AtrousError(
                f"{self.function!r} returned an image {image.dtype} {image.shape} and a mask {mask.shape}; expected "
                "uint8 (H, W, 3) and (H, W). Remove normalization and conversion to tensors, which follow later."
            )
        return image, mask.astype(labels.dtype, copy=False)


def as_transform(transform: Transform | Callable[..., Any]) -> Transform:
    """Return a transform as it is, and wrap a callable with albumentations' signature.

    Our transforms are those whose signature has `rng`.
    """
    return transform if "rng" in inspect.signature(transform).parameters else AlbumentationsAdapter(transform)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 (the generator they use)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def _check(valid: bool, message: str) -> None:
    if not valid:
        raise AtrousError(f"{message}.")


def _check_sides(name: str, *sides: int) -> None:
    valid = all(isinstance(side, (int, np.integer)) and side > 0 for side in sides)
    _check(valid, f"{name} of {' x '.join(map(str, sides))}: expected whole numbers of at least 1")


def _check_probability(probability: float) -> None:
    _check(0 <= probability <= 1, f"probability {probability}: expected 0 to 1")
