"""A stage of a recipe: one training, its settings checked, and what they name made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from atrous.card import Preprocessing
from atrous.data.transforms import (
    ColorJitter,
    Compose,
    Pad,
    RandomBlur,
    RandomCrop,
    RandomFlip,
    RandomRotation,
    RandomScale,
    Resize,
    Transform,
)
from atrous.errors import AtrousError, did_you_mean
from atrous.training.config import DataConfig, Evaluation, ModelConfig, Optimizer, Part, WarmUpConfig
from atrous.training.losses import LOSSES, Loss, Weighted
from atrous.training.schedules import SCHEDULES, Schedule, WarmUp

T = TypeVar("T")
Entries = dict[str, dict[str, Any]]
"""Things by name, with their arguments: `cross_entropy: {label_smoothing: 0.1}`; a name alone has no arguments."""

TRANSFORMS: Mapping[str, Callable[..., Transform]] = {
    "scale": RandomScale,
    "rotate": RandomRotation,
    "crop": RandomCrop,
    "flip": RandomFlip,
    "blur": RandomBlur,
    "color": ColorJitter,
    "pad": Pad,
    "resize": Resize,
}


def _named(expected: str) -> BeforeValidator:
    """Takes `name` and `{name: arguments}` alike as the latter, and says what was expected of all else."""

    def read(given: Any) -> Any:
        named = {given: {}} if isinstance(given, str) else given
        if not isinstance(named, Mapping) or not all(isinstance(each or {}, Mapping) for each in named.values()):
            raise ValueError(f"found {given!r}, expected {expected}")
        return {name: arguments or {} for name, arguments in named.items()}

    return BeforeValidator(read)


def _listed(given: Any) -> Any:
    if not isinstance(given, (list, tuple)):
        raise ValueError(
            f"found {given!r}, expected a list of names, or of names with their arguments, such as "
            "transforms: [{crop: {height: 321, width: 321}}, flip]"
        )
    return given


LossConfig = Annotated[
    Entries, _named("a name, or names with their arguments, such as loss: {cross_entropy: {}, lovasz: {}}")
]
ScheduleConfig = Annotated[
    Entries, _named("a name, or a name with its arguments, such as schedule: {poly: {power: 0.9}}")
]
TransformConfig = Annotated[
    Entries, _named("a name, or a name with its arguments, such as crop: {height: 321, width: 321}")
]


class Stage(Part):
    """One training from its start to its last step."""

    name: str = Field(default="train", pattern=r"^[\w.+-]+$")
    model: ModelConfig
    weights: str = ""
    """A segmentation network that the first stage starts from, an id or a file; later ones start where one ended."""
    backbone_weights: str = ""
    """Else, an ImageNet classifier for its backbone: a file, or "imagenet" for the one known for this backbone."""
    data: DataConfig
    transforms: Annotated[tuple[TransformConfig, ...], BeforeValidator(_listed)] = ()
    preprocessing: Preprocessing = Preprocessing()
    steps: int = Field(default=0, ge=0)
    """Of the optimizer; or give epochs."""
    epochs: float = Field(default=0, ge=0)
    batch: int = Field(default=16, ge=1)
    """Images in a step, those of all processes together."""
    accumulate: int = Field(default=1, ge=1)
    """In how many portions a process takes its images of a step, to save memory; Caffe's iter_size."""
    workers: int = Field(default=4, ge=0)
    """Processes that load images; no more than there are cores."""
    optimizer: Optimizer = Optimizer()
    schedule: ScheduleConfig = Field(default={"poly": {}}, min_length=1, max_length=1)
    warm_up: WarmUpConfig | None = None
    loss: LossConfig = Field(default={"cross_entropy": {}}, min_length=1)
    """One or more by name; `weight` among the arguments of one is its share in the sum."""
    loss_stride: int = Field(default=1, ge=1)
    """Compare every so-manieth pixel only: labels shrunk to the network's output, as DeepLab v1 and v2 did."""
    batch_norm: Literal["train", "sync", "frozen", "frozen_affine"] = "sync"
    """"sync" takes statistics over all processes, "frozen" leaves them, "frozen_affine" scale and shift as well."""
    batch_norm_momentum: float | None = Field(default=None, gt=0, le=1)
    """1 - decay of TensorFlow."""
    freeze: tuple[str, ...] = ()
    """Parts of the network, by the beginnings of their parameters' names, that do not learn."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "64-true"] = "32-true"
    clip: float = Field(default=0, ge=0)
    """The largest norm of the gradient; 0 for none."""
    ema: float = Field(default=0, ge=0, lt=1)
    """Decay of a moving average of the weights, which is judged and exported instead of them; 0 for none."""
    channels_last: bool = False
    compile: bool = False
    evaluate: Evaluation = Evaluation()
    checkpoint_every: int = Field(default=500, ge=1)
    """Steps that a killed run loses at most."""

    @model_validator(mode="after")
    def _check(self) -> Stage:
        if bool(self.steps) == bool(self.epochs):
            raise ValueError("give either steps or epochs, more than 0")
        self.make_loss(255)
        self.make_schedule()
        self.make_transform(255)
        return self

    def make_loss(self, ignore_index: int) -> Loss:
        terms = []
        for name, arguments in self.loss.items():
            given = dict(arguments)
            weight = float(given.pop("weight", 1.0))
            terms.append((_make("loss", LOSSES, name, given, ignore_index=ignore_index), weight))
        return Weighted(terms)

    def make_schedule(self) -> Schedule:
        ((name, arguments),) = self.schedule.items()
        schedule = _make("schedule", SCHEDULES, name, arguments)
        return WarmUp(schedule, self.warm_up.steps, self.warm_up.start) if self.warm_up else schedule

    def make_transform(self, ignore_index: int) -> Transform:
        mean = self.preprocessing.mean if self.preprocessing.channel_order == "RGB" else self.preprocessing.mean[::-1]
        known = {"ignore_index": ignore_index, "mean": tuple(map(round, mean))}
        return Compose(
            [
                _make("transform", TRANSFORMS, name, arguments, **known)
                for entry in self.transforms
                for name, arguments in entry.items()
            ]
        )


def _make(kind: str, table: Mapping[str, Callable[..., T]], name: str, arguments: Mapping[str, Any], **known: Any) -> T:
    """The named thing of a table of dataclasses; of what is `known`, those get what they have a field for."""
    if name not in table:
        raise AtrousError(f"there is no {kind} '{name}'.{did_you_mean(name, table)} There are: {', '.join(table)}.")
    fields = [field.name for field in dataclasses.fields(table[name])]  # type: ignore[arg-type]
    for key in arguments:
        if key not in fields:
            raise AtrousError(f"the {kind} '{name}' takes no '{key}'.{did_you_mean(key, fields)}")
    try:
        return table[name](**{key: value for key, value in known.items() if key in fields} | dict(arguments))
    except TypeError as error:
        raise AtrousError(f"the {kind} '{name}' cannot be made of {dict(arguments)}: {error}.") from error
