"""Recipe configuration: strict models of all keys, with type, default and meaning."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, field_validator, model_validator

from atrous.card import Preprocessing
from atrous.data.catalog import DatasetSpec, open_dataset
from atrous.data.transforms import TRANSFORMS, Compose, Transform
from atrous.errors import AtrousError, did_you_mean
from atrous.inference.tta import tta_preset
from atrous.layers.losses import Loss, WeightedSum
from atrous.schema import StrictModel
from atrous.training.losses import LOSSES
from atrous.training.schedules import SCHEDULES, Schedule, WarmUp

RENAMED_KEYS = {
    "about": "description",
    "at": "milestones",
    "bias": "lr_mult.bias",
    "bias_lr_mult": "lr_mult.bias",
    "bootstrap": "duplicate_classes",
    "clip": "grad_clip_norm",
    "colour": "color",
    "end": "end_factor",
    "every": "step_size",
    "fixed": "constant",
    "hard_pixels": "ohem",
    "head": "lr_mult.head",
    "head_lr_mult": "lr_mult.head",
    "images": "max_images",
    "licence": "license",
    "optimiser": "optimizer",
    "start": "start_factor",
    "steps": "warmup_steps",
    "times": "duplicate_times",
    "top": "fraction",
    "warm_up": "warmup",
}
"""Keys and names of version 0.1 with those that replaced them; some are still valid elsewhere in a recipe."""

T = TypeVar("T")


def suggest_key(key: str, known: Iterable[str]) -> str:
    """Suggest the new name of a renamed key, else the nearest known names: `" Did you mean 'grad_clip_norm'?"`."""
    names = list(known)
    return f" Did you mean '{RENAMED_KEYS[key]}'?" if _is_renamed(key, names) else did_you_mean(key, names)


def _is_renamed(key: str, known: Iterable[str]) -> bool:
    return key not in known and RENAMED_KEYS.get(key, "").partition(".")[0] in known


class RecipeModel(StrictModel):
    """A strict model whose renamed keys are errors that give the new name."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_renamed_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, Mapping) else ():
            if _is_renamed(key, cls.model_fields):
                raise ValueError(f"there is no key '{key}'.{suggest_key(key, cls.model_fields)}")
        return data


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _flatten(value: Any) -> Any:
    """Join the keys of nested mappings by dots: `lr_mult.crf.spatial=1` on the command line is nested."""
    if not isinstance(value, Mapping):
        return value
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        nested = _flatten(inner)
        flat |= {f"{key}.{name}": each for name, each in nested.items()} if isinstance(nested, dict) else {key: inner}
    return flat


class ModelConfig(RecipeModel):
    """A network by its id, and the options it is built with."""

    id: str
    """Id of the network, as `atrous models` lists them."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of `create_model`, except the number of classes, which the data set determines."""

    @field_validator("options")
    @classmethod
    def _refuse_num_classes(cls, options: dict[str, Any]) -> dict[str, Any]:
        if "num_classes" in options:
            raise ValueError("num_classes is not an option here: the data set determines the number of classes")
        return options


class DataConfig(RecipeModel):
    """The data sets of training and validation."""

    train: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = Field(min_length=1)
    """One or more data sets of the same classes, as `NAME:FOLDER?split=SPLIT`; several are joined."""
    val: str = ""
    """Data set for validation; empty for no validation."""
    allow_overlap: bool = False
    """Validate on images that this or an earlier stage was trained on, too; otherwise they are an error."""
    duplicate_classes: tuple[str, ...] = ()
    """Hard classes, whose images occur `duplicate_times` times per epoch (bootstrapping: DeepLab v3, section 4.3)."""
    duplicate_times: int = Field(default=2, ge=1)
    """Number of times an image with a class of `duplicate_classes` occurs per epoch."""
    border_weight: float = Field(default=0, ge=0)
    """w0 of U-Net's weight map (equation 2; the paper: 10), which the cross-entropy of the background between touching
    objects is weighted by; 0 for none. Needs masks that number the objects (`coding: instances` in `classes.yaml`)."""
    border_sigma: float = Field(default=5, gt=0)
    """sigma of U-Net's weight map, in pixels."""

    @classmethod
    def from_spec(cls, spec: str) -> DataConfig:
        """Train on the split "train" and validate on "val" where the data set has them, else train on all of it."""
        parsed = DatasetSpec.parse(spec)
        if "split" in parsed.options:
            return cls(train=(spec,))
        splits = {
            name: str(DatasetSpec(parsed.name, parsed.target, {**parsed.options, "split": name}))
            for name in open_dataset(spec).splits
        }
        return cls(train=(splits.get("train", spec),), val=splits.get("val", ""))

    def with_data(self, spec: str) -> DataConfig:
        """Replace the folder of the data set named in `spec`, or, if it is not used here, all of the configuration."""
        name = DatasetSpec.parse(spec).name
        used = {DatasetSpec.parse(text).name for text in (*self.train, *filter(None, (self.val,)))}
        return self.with_folder(spec) if name in used else DataConfig.from_spec(spec)

    def with_folder(self, spec: str) -> DataConfig:
        """Replace the folder of the data set named in `spec` where it is used, and add the options of `spec`."""
        new = DatasetSpec.parse(spec)

        def replaced(text: str) -> str:
            old = DatasetSpec.parse(text)
            same = old.name == new.name
            return str(DatasetSpec(old.name, new.target, {**old.options, **new.options})) if same else text

        val = replaced(self.val) if self.val else ""
        return self.model_copy(update={"train": tuple(map(replaced, self.train)), "val": val})


class OptimizerConfig(RecipeModel):
    """An optimizer and the multipliers of `SegmentationModel.parameter_groups`."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """Optimizer of `torch.optim`."""
    lr: float = Field(default=0.007, gt=0)
    """Base learning rate, before the schedule and the multipliers."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD; the first beta of Adam and AdamW."""
    nesterov: bool = False
    """Nesterov momentum, SGD only."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Weight decay: L2 penalty of SGD and Adam, decoupled in AdamW."""
    lr_mult: Annotated[dict[str, Annotated[float, Field(ge=0)]], BeforeValidator(_flatten)] = Field(default={})
    """Learning-rate multipliers of parts of the network: `head`, `bias` (the biases of convolutions), `crf.spatial`,
    or the name of any submodule or parameter, such as `{head: 10, bias: 2}` (DeepLab v2); their product where parts
    overlap."""
    decay_bias: bool = True
    """Apply weight decay to the biases of convolutions."""
    decay_norm: bool = True
    """Apply weight decay to the scale and shift of normalization layers."""
    decay_depthwise: bool = True
    """Apply weight decay to depthwise kernels (DeepLab v3+: false)."""


class WarmUpConfig(RecipeModel):
    """Linear warmup of the learning rate."""

    steps: int = Field(ge=1)
    """Number of warmup steps."""
    start_factor: float = Field(default=0.1, ge=0, le=1)
    """Multiplier of the learning rate in the first step; it rises linearly to 1."""


class EvaluationConfig(RecipeModel):
    """Validation on `data.val`, whole images at their own size."""

    every: int = Field(default=0, ge=0)
    """Number of steps between validations; 0 for as many as `times` tells."""
    times: int = Field(default=1, ge=1)
    """Number of validations, evenly over the stage, where `every` is 0; 1 is the one at its end, which is always made.
    10 with `atrous train --model`."""
    output_stride: int | None = None
    """Output stride during validation, if not that of training: 8 after training at 16 (DeepLab v3, table 10)."""
    tta: str = "none"
    """Test-time augmentation in validation: a preset of `atrous evaluate --tta`, such as pspnet_single."""
    max_images: int = Field(default=0, ge=0)
    """Validate on the first images only, at most this many; 0 for all."""
    samples: int = Field(default=6, ge=0)
    """Number of images whose predictions are drawn beside the ground truth."""

    def interval(self, steps: int) -> int:
        """Count the steps between validations in a stage of `steps` steps."""
        return self.every or math.ceil(steps / self.times)

    @field_validator("tta")
    @classmethod
    def _check_tta(cls, name: str) -> str:
        tta_preset(name)
        return name


def _named(expected: str) -> BeforeValidator:
    """Normalize `name` and `{name: arguments}` to the latter; report what was expected for anything else."""

    def normalize(value: Any) -> Any:
        named = {value: {}} if isinstance(value, str) else value
        if not isinstance(named, Mapping) or not all(isinstance(each or {}, Mapping) for each in named.values()):
            raise ValueError(f"found {value!r}, expected a name, or {expected}")
        return {name: arguments or {} for name, arguments in named.items()}

    return BeforeValidator(normalize)


def _require_list(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        expected = "a list of names, or of names with their arguments, such as transforms: [{blur: {high: 1.0}}, flip]"
        raise ValueError(f"found {value!r}, expected {expected}")
    return value


Named = dict[str, dict[str, Any]]
"""Names with their arguments: `cross_entropy: {label_smoothing: 0.1}`; a name alone has no arguments."""
LossConfig = Annotated[Named, _named("names with their arguments, such as loss: {cross_entropy: {}, lovasz: {}}")]
ScheduleConfig = Annotated[Named, _named("a name with its arguments, such as schedule: {poly: {power: 0.9}}")]
TransformConfig = Annotated[Named, _named("a name with its arguments, such as crop: {height: 321, width: 321}")]


class StageConfig(RecipeModel):
    """One stage of a recipe: network, data, optimization and validation."""

    name: str = Field(default="train", pattern=r"^[\w.+-]+$")
    """Name of the stage, in logs and in the file of its weights."""
    model: ModelConfig
    """The network: an id, or `{id: ..., options: {...}}`."""
    weights: str = ""
    """Trained segmentation weights to initialize the first stage from, an id or a file; later stages continue;
    none for random weights. Mean, std and channel order are those of these weights unless `preprocessing` sets them."""
    backbone_weights: str = ""
    """ImageNet weights of the first stage's backbone: "imagenet" for the registered file, which is downloaded once,
    or a file; none for random weights. With "imagenet", mean and std are those of these weights unless `preprocessing`
    sets them. imagenet with `atrous train --model` where there are such weights."""
    data: DataConfig
    """Data sets for training and validation."""
    transforms: Annotated[tuple[TransformConfig, ...], BeforeValidator(_require_list)] = ()
    """Augmentation in order: scale, rotate, elastic, crop, margin_crop, flip, blur, color, pad, resize, each
    with its arguments."""
    class_mix: float = Field(default=0, ge=0, le=1)
    """Probability with which half of the classes of another sample are pasted onto a sample (ClassMix, arXiv
    2007.07936); for samples of one size."""
    preprocessing: Preprocessing = Preprocessing()
    """Mean, std and channel order of the network's input; image size and grid in validation and inference."""
    steps: int = Field(default=0, ge=0)
    """Number of optimizer steps; give either steps or epochs."""
    epochs: float = Field(default=0, ge=0)
    """Number of passes over the training data; give either steps or epochs."""
    batch: int = Field(default=16, ge=1)
    """Images per optimizer step, over all processes and micro-batches together."""
    accumulate: int = Field(default=1, ge=1)
    """Number of micro-batches that a batch is split into, to save memory. A summed loss is that of the batch, any other
    the mean of those of the micro-batches (Caffe's iter_size), also if some have fewer valid pixels."""
    workers: int = Field(default=4, ge=0)
    """Processes that load images, at most the number of CPU cores; 0 loads in the training process."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer, learning rate and weight decay."""
    schedule: ScheduleConfig = Field(default={"poly": {}}, min_length=1, max_length=1)
    """Learning-rate schedule: poly, step or constant, with its arguments."""
    warmup: WarmUpConfig | None = None
    """Linear warmup before the schedule."""
    loss: LossConfig = Field(default={"cross_entropy": {}}, min_length=1)
    """One or more of cross_entropy, ohem, focal, dice and lovasz with their arguments; `weight` scales a term."""
    loss_stride: int = Field(default=1, ge=1)
    """Compute the loss on every n-th row and column, on labels downsampled to the network's output (DeepLab v1, v2)."""
    batch_norm: Literal["train", "sync", "frozen", "frozen_affine"] = "sync"
    """"sync": statistics over all processes; "train": per process; "frozen": fixed statistics; "frozen_affine": fixed
    scale and shift as well."""
    batch_norm_momentum: float | None = Field(default=None, gt=0, le=1)
    """Momentum of the running statistics, torch's convention: 1 - decay of TensorFlow."""
    freeze: tuple[str, ...] = ()
    """Submodules that are not trained, by name, such as backbone; they run in evaluation mode."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "64-true"] = "32-true"
    """Floating-point precision of Lightning Fabric."""
    grad_clip_norm: float = Field(default=0, ge=0)
    """Clip the norm of the gradient to this value; 0 for no clipping."""
    ema: float = Field(default=0, ge=0, lt=1)
    """Decay of an exponential moving average of the weights, used in validation and export; 0 for none."""
    channels_last: bool = False
    """Use torch's channels-last memory format."""
    compile: bool = False
    """Compile the network with `torch.compile`."""
    evaluate: EvaluationConfig = EvaluationConfig()
    """Validation during and after the stage."""
    patience: int = Field(default=0, ge=0)
    """Stop the stage early after this number of validations in a row without a better mIoU; 0 never stops early."""
    checkpoint_every: int = Field(default=500, ge=1)
    """Number of steps between checkpoints, and so the most steps a killed run loses."""

    @model_validator(mode="after")
    def _check(self) -> StageConfig:
        if bool(self.steps) == bool(self.epochs):
            raise ValueError("give either steps or epochs, more than 0")
        if self.patience and not self.data.val:
            raise ValueError("patience counts validations: give data.val, or set it to 0")
        if self.evaluate.tta != "none" and self.precision == "64-true":
            raise ValueError("evaluate.tta runs in 32 bits: remove it, or choose another precision than 64-true")
        if self.data.border_weight and "cross_entropy" not in self.loss:
            raise ValueError("data.border_weight weights the cross-entropy: add cross_entropy to loss, or set it to 0")
        if self.data.border_weight and any("class_aware" in (entry.get("crop") or {}) for entry in self.transforms):
            raise ValueError(
                "data.border_weight excludes class_aware crops, which depend on labels: remove one of them"
            )
        if self.data.border_weight and self.class_mix:
            raise ValueError("data.border_weight excludes class_mix, which moves objects: set one of them to 0")
        self.make_loss(255)
        self.make_schedule()
        self.make_transform(255)
        return self

    def count_steps(self, images: int) -> int:
        """Count the optimizer steps of the stage; the last epoch may be partial."""
        return self.steps or max(1, math.ceil(self.epochs * images / self.batch))

    def make_loss(self, ignore_index: int) -> Loss:
        """Build the loss, a weighted sum of its terms."""
        terms = []
        for name, options in self.loss.items():
            arguments = dict(options)
            weight = float(arguments.pop("weight", 1.0))
            if arguments.get("reduction") == "sum":
                weight *= self.accumulate  # a step averages the gradients of its micro-batches
            terms.append((_build("loss", LOSSES, name, arguments, ignore_index=ignore_index), weight))
        return WeightedSum(terms)

    def make_schedule(self) -> Schedule:
        """Build the learning-rate schedule, with warmup if there is one."""
        ((name, arguments),) = self.schedule.items()
        schedule = _build("schedule", SCHEDULES, name, arguments)
        return WarmUp(schedule, self.warmup.steps, self.warmup.start_factor) if self.warmup else schedule

    def make_transform(self, ignore_index: int) -> Transform:
        """Build the augmentation; padding is filled with the mean of the preprocessing."""
        mean = self.preprocessing.mean if self.preprocessing.channel_order == "RGB" else self.preprocessing.mean[::-1]
        defaults = {"ignore_index": ignore_index, "mean": tuple(map(round, mean))}
        entries = [item for entry in self.transforms for item in entry.items()]
        return Compose([_build("transform", TRANSFORMS, name, arguments, **defaults) for name, arguments in entries])


def _build(
    kind: str, table: Mapping[str, Callable[..., T]], name: str, arguments: Mapping[str, Any], **defaults: Any
) -> T:
    """Build an entry of a table of dataclasses from its arguments, and from those `defaults` it has fields for."""
    if name not in table:
        raise AtrousError(f"unknown {kind} '{name}'.{suggest_key(name, table)} Known: {', '.join(table)}.")
    fields = [field.name for field in dataclasses.fields(table[name])]  # type: ignore[arg-type]
    for key in arguments:
        if key not in fields:
            raise AtrousError(f"the {kind} '{name}' has no argument '{key}'.{suggest_key(key, fields)}")
    try:
        return table[name](**{key: value for key, value in defaults.items() if key in fields} | dict(arguments))
    except TypeError as error:
        raise AtrousError(f"the {kind} '{name}' cannot be built from {dict(arguments)}: {error}.") from error
