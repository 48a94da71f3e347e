"""Transfer weights between networks of different classes, matching the rows of the last layer by class name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atrous.card import Card
from atrous.errors import AtrousError
from atrous.models import SegmentationModel, build_from_card, create_model


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


def class_axes(card: Card) -> dict[str, tuple[int, ...]]:
    """Find the tensors of a network whose shape depends on the number of classes, and the axes that do.

    The network is built with one more class on the meta device: classifiers, and layers between classes, grow.
    """
    with torch.device("meta"):
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

    Raises: `AtrousError` if the two have no tensor in common.
    """
    axes = class_axes(card)
    same = card.classes == source.classes
    pairs = [(i, source.classes.index(name)) for i, name in enumerate(card.classes) if name in source.classes]
    new_rows, old_rows = [i for i, _ in pairs], [j for _, j in pairs]
    copied, fresh = 0, []
    for key, target in model.state_dict().items():
        value = tensors.get(key, tensors.get(key.removeprefix("network.")))  # CRF-RNN wraps a network under this name
        dims = axes.get(key, ())
        if value is not None and value.shape == target.shape and (same or not dims):
            target.copy_(value)
            copied += 1
        elif value is not None and not same and _comparable(target, value, dims, card, source):
            for axis in range(target.ndim):
                value = value.index_select(axis, torch.tensor(old_rows)) if axis in dims else value
            index = torch.meshgrid(
                *(torch.tensor(new_rows) if axis in dims else torch.arange(n) for axis, n in enumerate(target.shape)),
                indexing="ij",
            )
            target[index] = value.to(target.dtype)
        else:
            fresh.append(key)
    if not copied:
        raise AtrousError(f"{where}: {source.model} has no tensor in common with {card.model}: choose other weights.")
    return LoadReport(
        where,
        copied,
        tuple(dict.fromkeys(key.rpartition(".")[0] for key in fresh)),
        tuple(card.classes[i] for i in new_rows) if not same else card.classes,
        () if same else tuple(name for name in card.classes if name not in source.classes),
    )


def _comparable(target: Tensor, value: Tensor, dims: Sequence[int], card: Card, source: Card) -> bool:
    """Check that two tensors differ in the number of classes only."""
    return bool(dims) and all(
        (n, m) == (len(card.classes), len(source.classes)) if axis in dims else n == m
        for axis, (n, m) in enumerate(zip(target.shape, value.shape, strict=True))
    )
