"""What a training starts from: a network of other classes, or an ImageNet classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from atrous.card import Card
from atrous.errors import AtrousError
from atrous.models import SegmentationModel, build_from_card, create_model
from atrous.weights import load
from atrous.weights.importers.torchvision import read_state_dict
from atrous.weights.pretrained import find_pretrained
from atrous.weights.store import SUFFIX


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
    """Load a classifier into the backbone (into each of them, if there are several).

    `weights` is a file, or the tag of pretrained weights registered with the backbone, such as "imagenet".

    Raises: `AtrousError` for a file that does not fit the backbone, or a tag that the backbone does not have.
    """
    path = Path(weights)
    if not path.suffix and not path.is_file():
        path = find_pretrained(model, weights)
    if not path.is_file():
        raise AtrousError(f"backbone_weights: {path}: there is no such file.")
    state = load_file(path) if path.suffix == SUFFIX else read_state_dict(path)
    backbones = model.backbones()
    try:
        model.load_backbone(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise AtrousError(f"{path}: not the weights of {type(backbones[0]).__name__}: {reason}") from error
    inside = {id(value) for backbone in backbones for value in backbone.parameters()}
    fresh = [name for name, value in model.named_parameters() if id(value) not in inside]
    return LoadReport(str(path), len(state), tuple(dict.fromkeys(name.rpartition(".")[0] for name in fresh)), ())
