"""The card: the metadata stored with weights (network, classes, preprocessing, license, measured figures)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from atrous.errors import AtrousError
from atrous.schema import StrictModel, describe_error


class Preprocessing(StrictModel):
    """The conversion of an 8-bit image to the network's input: resize, reorder channels, normalize.

    Normalizing is `(pixel - mean) / std`, channel by channel.
    """

    resize: Literal["keep", "squeeze", "pad", "shorter_side"] = "keep"
    """The resizing method:

    - "keep": no resizing;
    - "squeeze": resize to `size`, whatever the aspect ratio;
    - "pad": shrink a larger image to fit into `size`, then pad it with the mean at the bottom and on the right;
    - "shorter_side": resize so that the shorter side equals the smaller number of `size`; keep the aspect ratio.
    """
    size: tuple[int, int] | None = None
    """Height and width in pixels that `resize` refers to; None with "keep"."""
    grid: int | None = Field(default=None, ge=1)
    """The height and width of the input (at scale 1) are a multiple of this number, plus one; None for any size.

    With aligned corners, and this number as output stride, every position of the coarse map then lies on a pixel of
    the input. "shorter_side" resizes to the nearest such size; "keep" pads with the mean at the bottom and on the
    right; "squeeze" and "pad" give `size` exactly and take no grid.
    """
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """The mean that is subtracted from each channel, in units of the 8-bit pixel (0 to 255)."""
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    """The standard deviation that each channel is divided by, in units of the 8-bit pixel."""
    channel_order: Literal["RGB", "BGR"] = "RGB"
    """The order of the network's input channels, and of `mean` and `std`."""

    @model_validator(mode="after")
    def _check(self) -> Preprocessing:
        if (self.size is None) != (self.resize == "keep"):
            raise ValueError(f"resize '{self.resize}' {'takes no' if self.resize == 'keep' else 'needs a'} size")
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size {self.size} is empty: both sides must be at least 1")
        if self.grid is not None and self.resize in ("squeeze", "pad"):
            raise ValueError(f"resize '{self.resize}' gives exactly its size and takes no grid: remove grid")
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} must be positive")
        if not all(map(math.isfinite, (*self.mean, *self.std))):
            raise ValueError(f"mean {self.mean} and std {self.std} must be finite")
        return self


class Measurement(StrictModel):
    """One measured figure, such as the mIoU on a validation set."""

    name: str
    """The metric, such as "mIoU"."""
    value: float
    """The value; percentages as 0 to 100."""
    data: str
    """The data set and split it was measured on."""
    command: str = ""
    """The command that measured it."""
    published: bool = False
    """True for a figure that the publisher of the weights reports, which was not measured with this package."""


class Card(StrictModel):
    """The metadata stored with weights: network, classes, preprocessing, origin, license, measured figures."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"colours": "colors", "licence": "license"}

    version: Literal[1] = 1
    """The version of this format."""
    model: str
    """The id of the network, such as `deeplab_v3_plus.xception65`."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """The arguments of `create_model`, besides the number of classes."""
    classes: tuple[str, ...] = Field(min_length=1)
    """The names of the classes, in the order of the labels."""
    colors: tuple[tuple[int, int, int], ...]
    """The RGB color of each class in overlays and palette PNGs."""
    preprocessing: Preprocessing
    """The conversion of an image to the network's input."""
    align_corners: bool = False
    """Whether bilinear resizing in the network aligns the corner pixels of its maps."""
    ignore_index: int = 255
    """The label of pixels that were ignored in training."""
    license: str = "unknown"
    """The license of the weights, and terms of the training data that restrict their use."""
    source: str = ""
    """Where the weights come from: their publisher and file, or the recipe that trained them."""
    trained_on: str = ""
    """The data the network was trained on."""
    trained_images: str = ""
    """Digests of the images it was trained on (6 bytes each, base64), so that it is not evaluated on them unknowingly;
    empty if they are not known."""
    measured: tuple[Measurement, ...] = ()
    """Measured and published figures."""

    @field_validator("arguments")
    @classmethod
    def _as_stored(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        return json.loads(json.dumps(arguments))  # a new card equals one read from a file: lists for tuples

    @model_validator(mode="after")
    def _check(self) -> Card:
        if len(self.colors) != len(self.classes):
            raise ValueError(f"{len(self.classes)} classes but {len(self.colors)} colors; every class needs one")
        for color in self.colors:
            if not 0 <= min(color) <= max(color) <= 255:
                raise ValueError(f"the color {color} is not in 0..255")
        return self

    @classmethod
    def read(cls, text: str, source: str) -> Card:
        """Parse a card from its JSON text; cards of version 0.1 (`colours`, `licence`) are read too.

        Raises: `AtrousError` naming the file (`source`) and the first invalid entry.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            problem = describe_error(error, "the card")
            raise AtrousError(
                f"{source}: the card is invalid: {problem}. Save or export the weights again, or correct the card."
            ) from error
