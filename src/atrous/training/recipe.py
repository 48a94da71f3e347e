"""Recipes: all that a training needs beside the pictures, in one YAML file.

A recipe has one or more stages. What stands at the top of the file holds for all of them; a stage overrides it, mapping
by mapping; `key=value` on the command line overrides both (`stages.NAME.key=value` one stage alone). What comes out,
each stage written out in full, is saved with the run and is a recipe again.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from atrous.data.catalog import Spec
from atrous.data.transforms import (
    ColourJitter,
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
from atrous.training.losses import LOSSES, Loss, Weighted
from atrous.training.schedule import SCHEDULES, Schedule, WarmUp
from atrous.weights import Preprocessing

T = TypeVar("T")
Entries = dict[str, dict[str, Any]]
"""Things by name, with their arguments: `cross_entropy: {label_smoothing: 0.1}`; a name alone has no arguments."""

FOLDER = Path(__file__).parents[3] / "recipes"
TRANSFORMS: Mapping[str, Callable[..., Transform]] = {
    "scale": RandomScale,
    "rotate": RandomRotation,
    "crop": RandomCrop,
    "flip": RandomFlip,
    "blur": RandomBlur,
    "colour": ColourJitter,
    "pad": Pad,
    "resize": Resize,
}


class _Part(BaseModel):
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


def _named(given: Any) -> Any:
    """`name` and `{name: arguments}` alike as the latter."""
    return {given: {}} if isinstance(given, str) else given


def _entries(given: Any) -> Any:
    return {key: value or {} for key, value in _named(given).items()} if isinstance(given, (str, dict)) else given


def _listed(given: Any) -> Any:
    return [_entries(each) for each in given] if isinstance(given, (list, tuple)) else given


def _several(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


class ModelEntry(_Part):
    """A network by its id, and the options it is built with beside the number of classes."""

    id: str
    options: dict[str, Any] = Field(default_factory=dict)


class DataEntry(_Part):
    """What is trained and judged on: specs as `open_dataset` takes them, those of `train` of the same classes."""

    train: Annotated[tuple[str, ...], BeforeValidator(_several)] = Field(min_length=1)
    val: str = ""
    bootstrap: tuple[str, ...] = ()
    """Images that hold any of these classes are listed `times` times."""
    times: int = Field(default=2, ge=1)

    def at(self, given: str) -> DataEntry:
        """The same with the folder of the spec `given` wherever its data set is used, or, where it is not, on it alone.

        The options of `given` are added to those of the recipe.
        """
        theirs = Spec.parse(given)

        def moved(text: str) -> str:
            ours = Spec.parse(text)
            if ours.name != theirs.name:
                return text
            return str(Spec(ours.name, theirs.target, {**ours.options, **theirs.options}))

        if theirs.name in {Spec.parse(text).name for text in (*self.train, *filter(None, (self.val,)))}:
            return self.model_copy(
                update={"train": tuple(map(moved, self.train)), "val": moved(self.val) if self.val else ""}
            )
        return own_data(given)


def own_data(given: str) -> DataEntry:
    """Train on the split "train" of a data set and judge on "val", where it has them, or on all of it unjudged."""
    from atrous.data.catalog import open_dataset

    spec = Spec.parse(given)
    if "split" in spec.options:
        return DataEntry(train=(given,))
    found = open_dataset(given)
    split = {name: str(Spec(spec.name, spec.target, {**spec.options, "split": name})) for name in found.splits}
    return DataEntry(train=(split.get("train", given),), val=split.get("val", ""))


class Optimiser(_Part):
    """An optimiser and the multipliers of `SegmentationModel.parameter_groups`."""

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


class WarmUpEntry(_Part):
    steps: int = Field(ge=1)
    start: float = Field(default=0.1, ge=0, le=1)


class Evaluation(_Part):
    """Judging on `data.val`, whole images at their own size."""

    every: int = Field(default=0, ge=0)
    """Steps; 0 is at the end of the stage alone."""
    output_stride: int | None = None
    """Another than the training's: 8 after training at 16 (DeepLab v3, table 10)."""
    images: int = Field(default=0, ge=0)
    """The first so many of them; 0 is all."""
    samples: int = Field(default=6, ge=0)
    """How many overlays to draw."""


class Stage(_Part):
    """One training from its start to its last step."""

    name: str = Field(default="train", pattern=r"^[\w.+-]+$")
    model: ModelEntry
    weights: str = ""
    """A segmentation network that the first stage starts from, an id or a file; later ones start where one ended."""
    backbone_weights: str = ""
    """Else, an ImageNet classifier for its backbone: a file, or "imagenet" for the one known for this backbone."""
    data: DataEntry
    transforms: Annotated[tuple[Entries, ...], BeforeValidator(_listed)] = ()
    preprocessing: Preprocessing = Preprocessing()
    steps: int = Field(default=0, ge=0)
    """Of the optimiser; or give epochs."""
    epochs: float = Field(default=0, ge=0)
    batch: int = Field(default=16, ge=1)
    """Images in a step, those of all processes together."""
    accumulate: int = Field(default=1, ge=1)
    """In how many portions a process takes its images of a step, to save memory; Caffe's iter_size."""
    workers: int = Field(default=4, ge=0)
    optimiser: Optimiser = Optimiser()
    schedule: Annotated[Entries, BeforeValidator(_entries)] = Field(default={"poly": {}}, min_length=1, max_length=1)
    warm_up: WarmUpEntry | None = None
    loss: Annotated[Entries, BeforeValidator(_entries)] = Field(default={"cross_entropy": {}}, min_length=1)
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
            raise ValueError(f"stage '{self.name}': give either steps or epochs, more than 0")
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


class Recipe(_Part):
    """A training in stages."""

    name: str = Field(pattern=r"^[\w.+-]+$")
    about: str = ""
    licence: str = "unknown"
    """Of the weights that come out; the data's terms often decide it."""
    seed: int = Field(default=0, ge=0)
    deterministic: bool = False
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"the stages {', '.join(names)} need names of their own")
        return self

    def at(self, data: Iterable[str]) -> Recipe:
        """The recipe on data sets in other places, or on others: see `DataEntry.at`."""
        stages = list(self.stages)
        for given in data:
            stages = [stage.model_copy(update={"data": stage.data.at(given)}) for stage in stages]
        return self.model_copy(update={"stages": tuple(stages)})

    def to_yaml(self) -> str:
        """The recipe in full."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


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


def list_recipes() -> list[str]:
    """The recipes that come with atrous, by name."""
    return sorted(path.stem for path in _shipped())


def read_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by its name or file, with `key=value` overrides.

    Raises: `AtrousError` for a file that cannot be read, or an entry that is unknown or wrong, with the nearest name.
    """
    path = Path(source)
    if not path.is_file():
        shipped = {each.stem: each for each in _shipped()}
        if str(source) not in shipped:
            raise AtrousError(
                f"There is no recipe '{source}', neither a file nor of these: {', '.join(shipped)}."
                f"{did_you_mean(path.stem, shipped)}"
            )
        path = shipped[str(source)]
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise AtrousError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(tree, dict):
        raise AtrousError(f"{path}: a recipe is a mapping of keys to values.")
    return make_recipe({"name": path.stem, **tree}, overrides, where=str(path))


def make_recipe(tree: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str = "the recipe") -> Recipe:
    """A recipe from what its file holds; see `read_recipe`."""
    own = set(Recipe.model_fields) - {"stages"}
    given = [_parse_override(text) for text in overrides]
    head = {key: value for key, value in tree.items() if key in own}
    common = {key: value for key, value in tree.items() if key not in own and key != "stages"}
    stages = []
    for number, stage in enumerate(tree.get("stages") or [{}]):
        if not isinstance(stage, Mapping):
            raise AtrousError(f"{where}: stages.{number} is a mapping of keys to values.")
        merged = _merge(common, stage)
        name = str(merged.get("name", "train"))
        for path, value in given:
            if path[0] == "stages" and len(path) > 2:
                if path[1] in (name, str(number)):
                    _set(merged, path[2:], value)
            elif path[0] not in own:
                _set(merged, path, value)
        stages.append(merged)
    _check_stage_names(given, [str(stage.get("name", "train")) for stage in stages])
    for path, value in given:
        if path[0] in own:
            _set(head, path, value)
    try:
        return Recipe.model_validate({**head, "stages": stages})
    except ValidationError as error:
        first = error.errors()[0]
        entry = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise AtrousError(f"{where}: {entry + ': ' if entry else ''}{reason}.") from error


def _check_stage_names(given: Sequence[tuple[list[str], Any]], names: Sequence[str]) -> None:
    known = [*names, *map(str, range(len(names)))]
    for path, _ in given:
        if path[0] == "stages" and (len(path) < 3 or path[1] not in known):
            asked = path[1] if len(path) > 1 else ""
            raise AtrousError(
                f"'{'.'.join(path)}': write stages.NAME.key=value; the stages are {', '.join(names)}."
                f"{did_you_mean(asked, names)}"
            )


def _parse_override(text: str) -> tuple[list[str], Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise AtrousError(f"'{text}': an override is key=value, such as optimiser.lr=0.01.")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise AtrousError(f"'{text}': the value cannot be read ({' '.join(str(error).split())}).") from error
    if isinstance(parsed, str) and _is_number(parsed):  # YAML wants 1.0e-3 where all the world writes 1e-3
        parsed = float(parsed)
    return key.split("."), parsed if value else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _set(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *parents, last = path
    for key in parents:
        inner = tree.get(key)
        if key == "model" and isinstance(inner, str):
            inner = {"id": inner}
        if inner is not None and not isinstance(inner, (str, Mapping)):
            raise AtrousError(f"{'.'.join(path)}: '{key}' holds no keys; give it as a whole, {key}=[...].")
        tree[key] = _entries(inner) if isinstance(inner, str) else dict(inner or {})
        tree = tree[key]
    tree[last] = {"id": value} if last == "model" and isinstance(value, str) else value


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, the one above where they differ; mappings are merged in their turn, lists are not.

    A named choice (the schedule, the loss) is replaced, for two of them would not be one.
    """
    merged = copy.deepcopy(dict(below))
    for key, value in above.items():
        before = merged.get(key)
        if key == "model":
            before, value = ({"id": each} if isinstance(each, str) else each for each in (before, value))
        choice = key in ("schedule", "loss")
        both = isinstance(before, Mapping) and isinstance(value, Mapping) and not choice
        merged[key] = _merge(before, value) if both else copy.deepcopy(value)  # type: ignore[arg-type]
    if isinstance(merged.get("model"), str):
        merged["model"] = {"id": merged["model"]}
    return merged


def _shipped() -> list[Path]:
    packaged = Path(str(files("atrous"))) / "recipes"
    return sorted((packaged if packaged.is_dir() else FOLDER).glob("*.yaml"))
