"""The format of `classes.yaml`, which describes a folder of your own images and masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationError

from atrous.errors import AtrousError
from atrous.imaging.labels import UNKNOWN, Color, voc_color_map
from atrous.parsing import ParseError, parse_yaml
from atrous.schema import StrictModel, describe_error

FILE = "classes.yaml"


def _parse_color(value: Any) -> Any:
    """Convert `#rrggbb` to three numbers; pydantic checks everything else."""
    if isinstance(value, str) and len(value) == 7 and value.startswith("#"):
        try:
            return tuple(bytes.fromhex(value[1:]))
        except ValueError:
            return value
    return value


def _parse_class(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _parse_coding(value: Any) -> Any:
    return "color" if value == "colour" else value  # as version 0.1 spelled it


Byte = Annotated[int, Field(ge=0, le=255)]
MaskValue = Annotated[int, Field(ge=0, le=65535)]
RGB = Annotated[tuple[Byte, Byte, Byte], BeforeValidator(_parse_color)]


class ClassConfig(StrictModel):
    """A class of `classes.yaml`; a name alone is enough."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"colour": "color"}

    name: str = Field(min_length=1)
    """The name of the class."""
    color: RGB | None = None
    """Its RGB color in overlays and in color masks, as `[r, g, b]` or `"#rrggbb"`; by default from VOC's color map."""
    values: tuple[MaskValue, ...] | None = None
    """Its values in masks; by default its place in the list, counted from 0."""


class FolderConfig(StrictModel):
    """The content of `classes.yaml`."""

    classes: tuple[Annotated[ClassConfig, BeforeValidator(_parse_class)], ...] = Field(min_length=2)
    """The classes, in the order of their labels."""
    ignore: tuple[MaskValue | RGB, ...] = (255,)
    """The values or colors of ignored pixels in the masks."""
    ignore_index: int = Field(default=255, ge=0, le=UNKNOWN - 1)
    """The label that ignored pixels get."""
    coding: Annotated[Literal["auto", "color", "instances"], BeforeValidator(_parse_coding)] = "auto"
    """"auto" reads palette masks by index and gray masks by value; "color" reads them by color; "instances" reads 0 as
    the first of two classes and any other value as the number of an object of the second."""
    images: str = ""
    """The folder of images; {split} in it stands for the name of the split. By default the first of the usual names."""
    masks: str = ""
    """The folder of masks, as `images`."""
    image_ending: str = ""
    """The end of the names of images, before the suffix, that their masks do not share."""
    mask_ending: str | None = None
    """The end of the names of masks: `_mask` for `a.jpg` and `a_mask.png`. By default the usual ones are tried."""
    splits: dict[str, str | float] = Field(default_factory=dict)
    """For each split its list (`val.txt`), its folder within the folder of images, or its fraction of all images."""
    seed: int = 0
    """The seed that draws the fractions of `splits`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes."""
        return tuple(entry.name for entry in self.classes)

    @property
    def colors(self) -> tuple[Color, ...]:
        """The colors of the classes."""
        return tuple(
            entry.color or default
            for entry, default in zip(self.classes, voc_color_map(len(self.classes)), strict=True)
        )


def read_classes_yaml(path: Path) -> FolderConfig:
    """Read a `classes.yaml`.

    Raises: `AtrousError` for a file that is missing, not YAML, or has invalid entries.
    """
    try:
        content = parse_yaml(path.read_text("utf-8-sig"))
    except FileNotFoundError as error:
        raise AtrousError(
            f"{path}: no such file. It lists the classes of the masks, for example `classes: [background, crack]`; "
            f"`atrous data init {path.parent}` writes one from the values in the masks."
        ) from error
    except (OSError, UnicodeDecodeError, ParseError) as error:
        raise AtrousError(f"{path}: not readable as YAML: {error}. Correct the file.") from error
    try:
        config = FolderConfig.model_validate(content)
    except ValidationError as error:
        raise AtrousError(f"{path}: {describe_error(error, 'the file')}.") from error
    twice = sorted({name for name in config.names if config.names.count(name) > 1})
    if twice:
        raise AtrousError(f"{path}: the class '{twice[0]}' is listed twice; give every class a name of its own.")
    return config
