"""Transfer weights between networks of different classes, matching the rows of the last layer by class name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor, nn

from atrous.card import Card
from atrous.errors import AtrousError
from atrous.imaging.labels import Color, voc_color_map
from atrous.layers.dilate import original_stride
from atrous.layers.meta import meta_device
from atrous.models import SegmentationModel, build_from_card, create_model

WRAPPED = "network."
"""CRF-RNN holds another network under this name."""


@dataclass(frozen=True)
class LoadReport:
    """Tensors loaded from a source, and modules that keep their initialization."""

    source: str
    copied: int
    fresh: tuple[str, ...]
    classes: tuple[str, ...]
    """Classes whose rows of the last layer were loaded, in the order of the new network."""
    new_classes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.copied} tensors from {self.source}"]
        if self.new_classes:
            taken = ", ".join(self.classes) or "none"
            parts.append(
                f"last layer: rows of the classes of the same name: {taken}; new: {', '.join(self.new_classes)}"
            )
        if self.fresh:
            shown = ", ".join(self.fresh[:6]) + (f" and {len(self.fresh) - 6} more" if len(self.fresh) > 6 else "")
            parts.append(f"not loaded, newly initialized: {shown}")
        return "; ".join(parts) + "."


class ClassList(Protocol):
    """Anything with class names and colors: a data set, or a card."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def colors(self) -> tuple[Color, ...]: ...


def replace_classes(
    trained: SegmentationModel, classes: Sequence[str] | ClassList | int, where: str
) -> tuple[SegmentationModel, LoadReport]:
    """Build the network of trained weights for other classes, with a new classifier, and copy all other weights.

    `classes` are names, a data set or a card; the rows of the classifier of classes of the same name are copied.
    With a number, all rows are new. The card of the new network has the new classes and no measured figures. `where`
    names the weights in messages.

    Raises: `AtrousError` for no or duplicate class names.
    """
    assert trained.card is not None
    old = trained.card
    tensors = trained.state_dict()
    if isinstance(classes, int):
        if classes < 1:
            raise AtrousError(f"num_classes={classes}: a network has at least one class.")
        names, colors = tuple(f"class {index}" for index in range(classes)), voc_color_map(classes)
        replaced = class_axes(old)
        tensors = {key: value for key, value in tensors.items() if key not in replaced}
    else:
        names, colors = _names_and_colors(classes, old)
    card = old.model_copy(
        update={"classes": names, "colors": colors, "measured": (), "source": f"started from {where}"}
    )
    model = build_from_card(card)
    return model, transfer(model, card, tensors, old, where)


def _names_and_colors(classes: Sequence[str] | ClassList, old: ClassList) -> tuple[tuple[str, ...], tuple[Color, ...]]:
    """Get class names and colors; names alone take the color of the class of the same name, or one of VOC's."""
    if isinstance(classes, str):
        raise AtrousError(f"classes='{classes}': expected a list of names, such as ['{classes}', 'background'].")
    if not isinstance(classes, Sequence):
        return tuple(classes.classes), tuple(classes.colors)
    names = tuple(classes)
    if not names or len(set(names)) < len(names):
        raise AtrousError(f"classes={list(names)}: expected one or more different names.")
    known = dict(zip(old.classes, old.colors, strict=True))
    used = {known[name] for name in names if name in known}
    palette = voc_color_map(len(names) + len(used))
    unused = chain((color for color in palette if color not in used), palette)
    return names, tuple(known[name] if name in known else next(unused) for name in names)


def class_axes(card: Card) -> dict[str, tuple[int, ...]]:
    """Find the tensors of a network whose shape depends on the number of classes, and the axes that do.

    The network is built with one more class on the meta device: classifiers, and layers between classes, grow.
    """
    with meta_device():
        shapes = {key: value.shape for key, value in build_from_card(card).state_dict().items()}
        arguments = {**card.arguments, "num_classes": len(card.classes) + 1}
        larger = {key: value.shape for key, value in create_model(card.model, **arguments).state_dict().items()}
    axes = {
        key: tuple(axis for axis, (n, m) in enumerate(zip(shape, larger[key], strict=True)) if n != m)
        for key, shape in shapes.items()
    }
    return {key: value for key, value in axes.items() if value}


@torch.no_grad()
def transfer(
    model: SegmentationModel, card: Card, tensors: Mapping[str, Tensor], source: Card, where: str
) -> LoadReport:
    """Copy the tensors of a trained network into another, as far as names and shapes agree.

    Tensors that depend on the classes are copied class by class, by name; all others keep their initialization.

    Raises: `AtrousError` if the two have no tensor in common, or a layer with a tensor in common has another stride.
    """
    _check_strides(model, card, source, where)
    axes = class_axes(card)
    same = card.classes == source.classes
    pairs = [(i, source.classes.index(name)) for i, name in enumerate(card.classes) if name in source.classes]
    new_rows, old_rows = (torch.tensor([pair[side] for pair in pairs], dtype=torch.long) for side in (0, 1))
    copied, fresh = 0, []
    for key, target in model.state_dict().items():
        value = tensors.get(key, tensors.get(key.removeprefix(WRAPPED)))
        dims = axes.get(key, ())
        if value is not None and value.shape == target.shape and (same or not dims):
            target.copy_(value)
            copied += 1
        elif value is not None and not same and _comparable(target, value, dims, card, source):
            for axis in range(target.ndim):
                value = value.index_select(axis, old_rows) if axis in dims else value
            index = torch.meshgrid(
                *(new_rows if axis in dims else torch.arange(n) for axis, n in enumerate(target.shape)),
                indexing="ij",
            )
            target[index] = value.to(target.dtype)
        else:
            fresh.append(key)
    model.init_missing(model.state_dict().keys() - set(fresh))
    if not copied:
        raise AtrousError(f"{where}: {source.model} has no tensor in common with {card.model}: choose other weights.")
    return LoadReport(
        where,
        copied,
        tuple(dict.fromkeys(key.rpartition(".")[0] for key in fresh)),
        tuple(card.classes[i] for i, _ in pairs) if not same else card.classes,
        () if same else tuple(name for name in card.classes if name not in source.classes),
    )


def _check_strides(model: SegmentationModel, card: Card, source: Card, where: str) -> None:
    """Check that convolutions of the same name and shape have the same stride as built, whatever the output stride."""
    with meta_device():
        others = dict(build_from_card(source).named_modules())
    for name, layer in model.named_modules():
        other = others.get(name, others.get(name.removeprefix(WRAPPED)))
        if not isinstance(layer, nn.Conv2d) or not isinstance(other, nn.Conv2d):
            continue
        strides = original_stride(layer), original_stride(other)
        if layer.weight.shape == other.weight.shape and strides[0] != strides[1]:
            raise AtrousError(
                f"{where}: {name} has stride {strides[1][0]} in {source.model}, but {strides[0][0]} in {card.model}: "
                "the weights would load, and compute different features. Choose other weights, or give the backbone "
                "their layout with backbone_options."
            )


def _comparable(target: Tensor, value: Tensor, dims: Sequence[int], card: Card, source: Card) -> bool:
    """Check that two tensors differ in the number of classes only."""
    return bool(dims) and all(
        (n, m) == (len(card.classes), len(source.classes)) if axis in dims else n == m
        for axis, (n, m) in enumerate(zip(target.shape, value.shape, strict=True))
    )
