"""Trace a network into the graph that every format is written from."""

from __future__ import annotations

import warnings
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from atrous.card import Card, Preprocessing
from atrous.errors import AtrousError
from atrous.export.labels import LabelModule
from atrous.inference.engines.convert import ScoreModule
from atrous.models import SegmentationModel

TRACED_SIZE = (97, 129)
"""Height and width that a network for images of any size is traced with."""


def exported_card(card: Card, size: tuple[int, int] | None) -> Card:
    """Adapt a card to a network whose input has a fixed size: images are resized or padded to it.

    Images that the card squeezes are squeezed to the new size; all others are shrunk to fit into it, then padded.
    """
    if size is None:
        return card
    resize = "squeeze" if card.preprocessing.resize == "squeeze" else "pad"
    fixed = {**card.preprocessing.model_dump(), "resize": resize, "size": size, "grid": None}
    return card.model_copy(update={"preprocessing": Preprocessing(**fixed)})


def build_module(model: SegmentationModel, card: Card, *, labels: bool, size: tuple[int, int] | None) -> nn.Module:
    """Build the module that a file contains: preprocessed images to scores, or 8-bit images to labels.

    It holds a copy of the model, on the CPU and in evaluation mode.

    Raises: `AtrousError` for labels of images of any size, if the card resizes images by their shorter side.
    """
    if not labels:
        return ScoreModule(deepcopy(model).cpu()).eval()
    if card.preprocessing.resize == "shorter_side" and size is None:
        raise AtrousError(
            "--labels needs --size HxW, the size of the images: these weights resize the shorter side of an image, and "
            "a file that contains this works for one size only."
        )
    return LabelModule(deepcopy(model).cpu(), card.preprocessing, size).eval()


def trace(module: nn.Module, *, labels: bool, size: tuple[int, int] | None) -> ExportedProgram:
    """Trace a module with `torch.export`, for batches of any size, and images of any size unless it is fixed.

    Raises: `AtrousError` for a network that cannot be traced.
    """
    height, width = size or TRACED_SIZE
    if labels:
        image: Tensor = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    else:
        image = torch.zeros(2, 3, height, width)
    axes = [0] if size is not None else [0, 1, 2] if labels else [0, 2, 3]
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, on its trees of arguments
            program = torch.export.export(module, (image,), dynamic_shapes=(dict.fromkeys(axes, Dim.DYNAMIC),))
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise AtrousError(f"torch.export cannot trace this network ({reason}): use its weights with torch.") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it has the paths of this machine, and would be stored in the file
    return program
