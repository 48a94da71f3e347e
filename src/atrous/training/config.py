"""The entries of a stage in a recipe: its network, its data, its optimizer, its judging."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from atrous.data.catalog import DatasetSpec
from atrous.errors import did_you_mean


class Part(BaseModel):
    """A mapping of known keys; an unknown one gets the nearest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            for key in given:
                if key not in cls.model_fields:
                    raise ValueError(
                        f"there is no key '{key}'.{did_you_mean(str(key), cls.model_fields)} "
                        f"There are: {', '.join(cls.model_fields)}"
                    )
        return given


def _several(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


class ModelConfig(Part):
    """A network by its id, and the options it is built with beside the number of classes."""

    id: str
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _classes_are_the_datas(cls, options: dict[str, Any]) -> dict[str, Any]:
        if "num_classes" in options:
            raise ValueError("num_classes is no option here: the data set says how many there are")
        return options


class DataConfig(Part):
    """What is trained and judged on: specs as `open_dataset` takes them, those of `train` of the same classes."""

    train: Annotated[tuple[str, ...], BeforeValidator(_several)] = Field(min_length=1)
    val: str = ""
    bootstrap: tuple[str, ...] = ()
    """Images that hold any of these classes are listed `times` times."""
    times: int = Field(default=2, ge=1)

    def at(self, given: str) -> DataConfig:
        """The same with the folder of the spec `given` wherever its data set is used, or, where it is not, on it alone.

        The options of `given` are added to those of the recipe.
        """
        theirs = DatasetSpec.parse(given)

        def moved(text: str) -> str:
            ours = DatasetSpec.parse(text)
            if ours.name != theirs.name:
                return text
            return str(DatasetSpec(ours.name, theirs.target, {**ours.options, **theirs.options}))

        if theirs.name in {DatasetSpec.parse(text).name for text in (*self.train, *filter(None, (self.val,)))}:
            return self.model_copy(
                update={"train": tuple(map(moved, self.train)), "val": moved(self.val) if self.val else ""}
            )
        return own_data(given)


def own_data(given: str) -> DataConfig:
    """Train on the split "train" of a data set and judge on "val", where it has them, or on all of it unjudged."""
    from atrous.data.catalog import open_dataset

    spec = DatasetSpec.parse(given)
    if "split" in spec.options:
        return DataConfig(train=(given,))
    found = open_dataset(given)
    split = {name: str(DatasetSpec(spec.name, spec.target, {**spec.options, "split": name})) for name in found.splits}
    return DataConfig(train=(split.get("train", given),), val=split.get("val", ""))


class Optimizer(Part):
    """An optimizer and the multipliers of `SegmentationModel.parameter_groups`."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = Field(default=0.007, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD; the first beta of Adam."""
    nesterov: bool = False
    weight_decay: float = Field(default=1e-4, ge=0)
    head: float = Field(default=1.0, ge=0)
    bias: float = Field(default=1.0, ge=0)
    decay_bias: bool = True
    decay_norm: bool = True
    decay_depthwise: bool = True


class WarmUpConfig(Part):
    steps: int = Field(ge=1)
    start: float = Field(default=0.1, ge=0, le=1)


class Evaluation(Part):
    """Judging on `data.val`, whole images at their own size."""

    every: int = Field(default=0, ge=0)
    """Steps; 0 is at the end of the stage alone."""
    output_stride: int | None = None
    """Another than the training's: 8 after training at 16 (DeepLab v3, table 10)."""
    images: int = Field(default=0, ge=0)
    """The first so many of them; 0 is all."""
    samples: int = Field(default=6, ge=0)
    """How many overlays to draw."""
