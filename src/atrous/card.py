"""The card: the metadata stored with weights (network, classes, preprocessing, license, measured figures)."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from atrous.errors import AtrousError


class _StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_OLD_KEYS = {"colours": "colors", "licence": "license"}
"""Keys as version 0.1 wrote them."""


class Preprocessing(_StrictModel):
    """From an image of 8 bits per channel to the network's input: resize, reorder channels, `(pixel - mean) / std`.

    `mean` and `std` are in units of the 8-bit pixel. `resize` is one of

    - "keep": the size stays;
    - "squeeze": to `size`, whatever the shape;
    - "pad": shrunk to fit into `size` if it does not, then padded with the mean at the bottom and on the right;
    - "shorter_side": the shorter side to the smaller of `size`, the shape stays.
    """

    resize: Literal["keep", "squeeze", "pad", "shorter_side"] = "keep"
    size: tuple[int, int] | None = None
    """Height and width."""
    grid: int | None = Field(default=None, ge=1)
    """Both sides of the input, at scale 1, are a multiple of this, plus one: with aligned corners and this output
    stride, all samples lie on its pixels. An image resized by its shorter side goes to the nearest such size, one that
    is kept is padded with the mean at the bottom and on the right; the other ways name their sizes themselves."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    channel_order: Literal["RGB", "BGR"] = "RGB"
    """The order of the network's channels, and of `mean` and `std`."""

    @model_validator(mode="after")
    def _check(self) -> Preprocessing:
        if (self.size is None) != (self.resize == "keep"):
            raise ValueError(f"resize '{self.resize}' {'takes no' if self.resize == 'keep' else 'needs a'} size")
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size {self.size} is empty")
        if self.grid is not None and self.resize in ("squeeze", "pad"):
            raise ValueError(f"resize '{self.resize}' goes to its size exactly, it takes no grid")
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} must be positive")
        return self


class Measurement(_StrictModel):
    """One figure: of what, on what, and by which command; `published` when it is not ours."""

    name: str
    value: float
    data: str
    command: str = ""
    published: bool = False


class Card(_StrictModel):
    """What travels with weights: the network, its classes, its preprocessing, its origin, what was measured."""

    version: Literal[1] = 1
    model: str
    """The id of the network in the registry."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """What `create_model` is called with, beside the number of classes."""
    classes: tuple[str, ...] = Field(min_length=1)
    colors: tuple[tuple[int, int, int], ...]
    preprocessing: Preprocessing
    align_corners: bool = False
    ignore_index: int = 255
    license: str = "unknown"
    source: str = ""
    trained_on: str = ""
    measured: tuple[Measurement, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _rename_old_keys(cls, data: Any) -> Any:
        return {_OLD_KEYS.get(key, key): value for key, value in data.items()} if isinstance(data, dict) else data

    @field_validator("arguments")
    @classmethod
    def _plain(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        return json.loads(json.dumps(arguments))  # as it will be read back: lists for tuples

    @model_validator(mode="after")
    def _check(self) -> Card:
        if len(self.colors) != len(self.classes):
            raise ValueError(f"{len(self.classes)} classes but {len(self.colors)} colors")
        return self

    @classmethod
    def read(cls, text: str, where: str) -> Card:
        """Parse the JSON text of a card found in `where`.

        Raises: `AtrousError` naming the first wrong entry.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            entry = ".".join(map(str, first["loc"])) or "the card"
            raise AtrousError(f"{where}: the card cannot be used: {entry}: {first['msg']}.") from error
