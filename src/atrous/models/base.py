"""Base class of all networks, their registry, and the functions that register and build them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib import import_module
from typing import Any, TypeVar

from torch import Tensor, nn

from atrous.backbones import Backbone, create_backbone
from atrous.card import Card
from atrous.errors import AtrousError, describe_unexpected, did_you_mean
from atrous.layers.dilate import check_output_stride
from atrous.layers.freeze import FreezableModule, parameters_of
from atrous.layers.norm import NORMALIZATION
from atrous.layers.resize import resize
from atrous.registry import Paper, Registry


class SegmentationModel(FreezableModule):
    """Base class of segmentation networks: `model(image)` computes class logits at the size of the image.

    This holds in training and in evaluation mode, for any height, width and batch size from 1.

    Shape: `image` (N, in_channels, H, W), float, preprocessed as the weights require -> (N, num_classes, H, W), float.
    """

    backbone: Backbone
    num_classes: int
    align_corners: bool = False
    """Whether resizing aligns the corners of the maps, see `layers.resize`."""
    card: Card | None = None
    """The metadata of the weights, if any were loaded or trained."""
    is_convertible: bool = True
    """Whether other runtimes can compute the outputs; False for models with operations that only torch has."""

    @abstractmethod
    def scores(self, image: Tensor) -> Tensor:
        """Compute class logits before the last resize (low-resolution logits).

        Shape: (N, in_channels, H, W) -> (N, num_classes, h, w).
        """

    def forward(self, image: Tensor) -> Tensor:
        """Compute class logits at the size of the image, see the class."""
        return self._to_size_of(image, self.scores(image))

    @property
    def output_is_resized_scores(self) -> bool:
        """Whether the model only resizes its low-resolution logits: `model(image)` is `scores(image)`, resized.

        The resize is bilinear, to the size of the image, by `align_corners`; callers may then do it themselves.
        False for models that process the logits further (a CRF) or resize them in another way.
        """
        own, base = type(self), SegmentationModel
        return own.forward is base.forward and own._to_size_of is base._to_size_of

    def training_outputs(self, image: Tensor) -> list[tuple[Tensor, float]]:
        """Compute all outputs of the training loss: logits at image size, each with its weight in the loss.

        The first are `model(image)`; those of auxiliary heads and of several scales follow.
        """
        return [(self(image), 1.0)]

    @property
    def output_stride(self) -> int:
        """The ratio of the resolution of the image to that of the features that are classified."""
        return self.backbone.output_stride

    def set_output_stride(self, output_stride: int) -> SegmentationModel:
        """Trade strides for dilations, or back, so that a trained network runs at another output stride.

        The atrous rates follow; the weights stay as they are. Returns the model itself.

        Raises: `AtrousError` for a stride at which the network cannot run; then nothing has changed.
        """
        possible = self.possible_output_strides()
        check_output_stride(output_stride, possible)
        if len(possible) > 1:
            self.backbone.set_output_stride(output_stride)
        return self

    def possible_output_strides(self) -> list[int]:
        """List the strides that `set_output_stride` accepts, ascending.

        They are the backbone's, without those that the rest of the network does not support; a single one if strides
        cannot become dilations at all (pooling indices, transposed convolutions of fixed factors).
        """
        return self.backbone.possible_output_strides()

    def unused_parameters(self) -> list[nn.Parameter]:
        """List the parameters without effect at this output stride, which get no gradient; none in most networks."""
        return []

    def fields_of_view(self) -> dict[str, int]:
        """Compute the fields of view of the dilated classifiers in image pixels, by the path of their convolution.

        They are counted as in the paper; empty for networks whose paper gives none. The receptive field is larger: it
        includes all layers before.
        """
        return {}

    def backbones(self) -> list[Backbone]:
        """List the backbones: one in most networks, one per scale in RefineNet, none in U-Net."""
        return [module for module in self.modules() if isinstance(module, Backbone)]

    def whole_backbones(self) -> list[Backbone]:
        """List the backbones that run by their own `forward` only, not layer by layer: those FSDP can shard."""
        return self.backbones()

    def load_backbone(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load a classifier's weights into the backbones, and into other layers that the paper initializes from it."""
        for backbone in self.backbones():
            backbone.load_state_dict(dict(state_dict))

    def init_missing(self, loaded: Collection[str]) -> None:
        """Initialize what trained weights do not have, if there is a better start than random; `loaded` lists keys."""

    def head(self) -> Iterable[nn.Module]:
        """List the modules that the paper trains at a higher rate than the backbone; by default, all others."""
        return [child for name, child in self.named_children() if name != "backbone"]

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """List the parts that are not submodules: `head`, and `bias`, the biases of convolutions.

        `parameter_groups` takes them by these names, and submodules and single parameters by their own names.
        """
        head = [parameter for module in self.head() for parameter in module.parameters()]
        layers = [layer for layer in self.modules() if not isinstance(layer, NORMALIZATION)]
        own = [dict(layer.named_parameters(recurse=False)) for layer in layers]
        return {"head": head, "bias": [parameters["bias"] for parameters in own if "bias" in parameters]}

    def parameter_groups(
        self,
        lr: float,
        *,
        weight_decay: float = 0.0,
        lr_mult: Mapping[str, float] | None = None,
        decay_bias: bool = True,
        decay_norm: bool = True,
        decay_depthwise: bool = True,
    ) -> list[dict[str, Any]]:
        """Group the parameters for an optimizer, with the papers' learning-rate multipliers and weight decay.

        `lr_mult` multiplies the learning rate of parts of the network (DeepLab v2: `{"head": 10, "bias": 2}`): those of
        `parts`, and submodules or parameters by name. A parameter of several parts gets the product. The `decay_`
        switches exempt the biases of convolutions, the scale and shift of normalization (batch, layer, group,
        instance), and depthwise kernels (DeepLab v3+) from weight decay. Parameters that need no gradient are left out.

        Raises: `AtrousError` for a part that the network lacks, with the nearest names.
        """
        multipliers, named = dict(lr_mult or {}), self.parts()
        parts = {
            part: {id(parameter) for parameter in (named[part] if part in named else self._submodule_parameters(part))}
            for part in multipliers
        }
        biases = {id(parameter) for parameter in named["bias"]}
        groups: dict[tuple[tuple[str, ...], bool], dict[str, Any]] = {}
        for layer in self.modules():
            norm = isinstance(layer, NORMALIZATION)
            depthwise = isinstance(layer, nn.Conv2d) and layer.groups > 1
            for parameter in layer.parameters(recurse=False):
                if not parameter.requires_grad:
                    continue
                is_bias = id(parameter) in biases
                decay = decay_norm if norm else decay_bias if is_bias else decay_depthwise if depthwise else True
                names = tuple(part for part, members in parts.items() if id(parameter) in members)
                if (names, decay) not in groups:
                    rate = lr * math.prod(multipliers[name] for name in names)
                    decayed = weight_decay if decay else 0.0
                    groups[names, decay] = {"name": " ".join(names), "params": [], "lr": rate, "weight_decay": decayed}
                groups[names, decay]["params"].append(parameter)
        return list(groups.values())

    def push_to_hub(self, repo: str, **options: Any) -> Any:
        """Push the weights with their card to a repository `user/name` of the Hugging Face hub.

        Options and result are those of `atrous.export.push_to_hub`, such as `private=True`.

        Raises: `AtrousError` without a card, a token in `HF_TOKEN` or a connection.
        """
        return import_module("atrous.export").push_to_hub(self, repo, **options)  # by name: it imports this module

    def _submodule_parameters(self, part: str) -> list[nn.Parameter]:
        parameters = parameters_of(self, part)
        if not parameters:
            parts = tuple(self.parts())
            known = (*parts, *dict(self.named_modules()), *dict(self.named_parameters()))
            children = ", ".join(name for name, _ in self.named_children())
            raise AtrousError(
                f"lr_mult: the network has no part '{part}'.{did_you_mean(part, known)} Parts are {', '.join(parts)}, "
                f"and submodules and parameters by name, such as {children}."
            )
        return parameters

    def _to_size_of(self, image: Tensor, scores: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        return resize(scores, (height, width), align_corners=self.align_corners)


class ModelWithAuxiliaryHead(SegmentationModel):
    """Base class of networks with a second head, on an earlier feature map, for an auxiliary loss.

    A subclass sets `auxiliary`, the second head or None, and `auxiliary_weight`, the weight of its loss.
    """

    auxiliary: nn.Module | None
    auxiliary_weight: float
    auxiliary_map: int = -2
    """Index of the backbone's map that the second head classifies, by default the one before the last."""

    @abstractmethod
    def _classify(self, maps: list[Tensor]) -> Tensor:
        """Compute the scores from the backbone's feature maps, fine to coarse."""

    def scores(self, image: Tensor) -> Tensor:
        return self._classify(self.backbone(image))

    def training_outputs(self, image: Tensor) -> list[tuple[Tensor, float]]:
        if self.auxiliary is None:
            return super().training_outputs(image)
        maps = self.backbone(image)
        outputs = ((self._classify(maps), 1.0), (self.auxiliary(maps[self.auxiliary_map]), self.auxiliary_weight))
        return [(self._to_size_of(image, scores), weight) for scores, weight in outputs]


def scaled(channels: int, width: float) -> int:
    """Multiply a number of channels by the width multiplier; at least 4."""
    return max(4, round(channels * width))


MODELS: Registry[SegmentationModel] = Registry("model", "atrous models")
register_model = MODELS.register


def build_from_card(card: Card) -> SegmentationModel:
    """Build the network that a card describes, with random weights and this card.

    Raises: `AtrousError` for an unknown network or argument.
    """
    arguments = dict(card.arguments)
    if card.align_corners and "align_corners" in MODELS.entry(card.model).arguments():
        arguments["align_corners"] = True  # DeepLab v1 and v2 always align corners
    try:
        model = MODELS.create(card.model, num_classes=len(card.classes), **arguments)
    except AtrousError:
        raise
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise AtrousError(
            f"{card.model} cannot be built with the arguments {arguments!r:.300} ({describe_unexpected(error)}): "
            "correct the card or the recipe."
        ) from error
    model.card = card
    return model


def build_backbone(
    name: str, *, width: float, in_channels: int, backbone_options: Mapping[str, Any] | None, **preset: Any
) -> Backbone:
    """Build the backbone of a model; the user's `backbone_options` override the `preset` of the paper.

    Of options that are mappings, such as `fc`, those values are overridden that the user gives.

    Raises: `AtrousError` for an unknown option, or for `width`, `in_channels` or `num_classes`, which are arguments of
    the model.
    """
    options = dict(backbone_options or {})
    for key in ("width", "in_channels", "num_classes"):
        if key in options:
            raise AtrousError(f"backbone_options: {key} is an argument of the model itself, give it there.")
    for key, value in preset.items():
        if isinstance(value, Mapping) and isinstance(options.get(key), Mapping):
            options[key] = {**value, **options[key]}
    return create_backbone(name, width=width, in_channels=in_channels, **{**preset, **options})


Function = TypeVar("Function", bound=Callable[..., SegmentationModel])


def register_on_any_backbone(
    architecture: str,
    paper: Paper,
    *,
    options_of: type[SegmentationModel] | tuple[type[SegmentationModel], ...],
    **preset: Any,
) -> Callable[[Function], Function]:
    """Decorate a function to register it as `architecture`, for a backbone that the user names.

    The function is called with the name of the backbone and the options that the user gives. `preset` holds arguments
    whose defaults differ. Where `architecture.backbone` is an id of its own, that is built.
    """

    def register(function: Function) -> Function:
        def build(*, backbone: str, **options: Any) -> SegmentationModel:
            own_id = f"{architecture}.{backbone}"
            if own_id in MODELS:
                return MODELS.create(own_id, **options)
            return function(backbone, **{**preset, **options})

        classes = options_of if isinstance(options_of, tuple) else (options_of,)
        register_model(architecture, paper, options_of=(function, *classes), listed=False)(build)
        return function

    return register


def register_family(
    architecture: str,
    backbones: Mapping[str, Mapping[str, Any]],
    paper: Paper,
    *,
    options_of: type[SegmentationModel] | tuple[type[SegmentationModel], ...],
    other_backbones: Mapping[str, Any] | None = None,
) -> Callable[[Function], Function]:
    """Decorate a function to register it as `architecture.backbone` for each of `backbones`.

    The function is called with the built backbone, the width multiplier, and the options that the user gives. Each
    model takes `width`, `in_channels`, `backbone_options` and the keyword-only arguments of the classes `options_of`.
    The values of `backbones` are arguments whose defaults differ on that backbone; `other_backbones` are those on any
    other, which `create_model(architecture, backbone=NAME)` builds.
    """

    def register(function: Function) -> Function:
        def build(
            backbone: str,
            *,
            width: float = 1.0,
            in_channels: int = 3,
            backbone_options: Mapping[str, Any] | None = None,
            **options: Any,
        ) -> SegmentationModel:
            built = build_backbone(backbone, width=width, in_channels=in_channels, backbone_options=backbone_options)
            return function(built, width, **options)

        for backbone, preset in backbones.items():
            register_model(f"{architecture}.{backbone}", paper, options_of=options_of, backbone=backbone, **preset)(
                build
            )
        register_on_any_backbone(architecture, paper, options_of=options_of, **(other_backbones or {}))(build)
        return function

    return register
