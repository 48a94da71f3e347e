"""Import state dicts of torchvision's segmentation networks: `deeplabv3_resnet50/101`, `fcn_resnet50/101`,
`deeplabv3_mobilenet_v3_large` and `lraspp_mobilenet_v3_large`.

ResNets have the same keys; the tables below map the keys of the heads. torchvision runs the networks on ResNets at
output stride 8; its DeepLab has rates 12, 24, 36 (our rates are declared at stride 16), a 3x3 convolution before the
classifier and dropout 0.5. On MobileNetV3 it has the same rates at output stride 16.

Source: torchvision/models/segmentation/deeplabv3.py, fcn.py and lraspp.py; preprocessing of
`DeepLabV3_ResNet50_Weights`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from atrous.card import Card, Preprocessing
from atrous.errors import AtrousError
from atrous.layers.meta import meta_device
from atrous.models import SegmentationModel, build_from_card
from atrous.weights.importers.classes import ClassTable, name_classes
from atrous.weights.tensors import load_tensors, rename_keys

AUXILIARY = (
    (r"aux_classifier\.([01])\.", r"auxiliary.0.\1."),
    (r"aux_classifier\.4\.", "auxiliary.2."),
)

DEEPLAB_V3 = (
    (r"classifier\.0\.convs\.0\.", "aspp.branches.0."),
    (r"classifier\.0\.convs\.([123])\.", r"aspp.branches.\1."),
    (r"classifier\.0\.convs\.4\.1\.", "aspp.pooling.conv.0."),
    (r"classifier\.0\.convs\.4\.2\.", "aspp.pooling.conv.1."),
    (r"classifier\.0\.project\.", "aspp.project."),
    (r"classifier\.1\.", "refine.0."),
    (r"classifier\.2\.", "refine.1."),
    (r"classifier\.4\.", "classifier."),
    *AUXILIARY,
)
"""torchvision's keys of the DeepLab v3 head and ours; `backbone.` is the same in both."""

FCN = (
    (r"classifier\.([01])\.", r"classifier.0.\1."),
    (r"classifier\.4\.", "classifier.2."),
    *AUXILIARY,
)
"""torchvision's keys of the FCN head and ours."""

LRASPP = (
    (r"classifier\.cbr\.", "project."),
    (r"classifier\.scale\.1\.", "gate.conv."),
    (r"classifier\.(low|high)_classifier\.", r"\1_classifier."),
)
"""torchvision's keys of the LR-ASPP head and ours."""

MOBILENET_V3 = ((r"backbone\.(\d+)\.", r"backbone.features.\1."),)
"""torchvision's keys of MobileNetV3 as a backbone, and ours."""

DEEPLAB_ARGUMENTS = {"multi_grid": (1, 1, 1), "dropout": 0.5, "refine": True}
"""The arguments by which torchvision's DeepLab differs from the paper's."""

MOBILE_ARGUMENTS: dict[str, Any] = {"output_stride": 16, "backbone_options": {"layout": "torchvision"}}
MOBILE_DEEPLAB_ARGUMENTS = {"atrous_rates": (12, 24, 36), "auxiliary_map": 1, "dropout": 0.5, "refine": True}
"""The arguments of the networks on MobileNetV3: the layout of the backbone, and the rates at output stride 16."""

DEPTHS = {6: 50, 23: 101}
"""ResNet depth by the number of units in `layer3`."""

MODELS = {
    "deeplab_v3.resnet50",
    "deeplab_v3.resnet101",
    "deeplab_v3.mobilenet_v3_large",
    "lraspp.mobilenet_v3_large",
    "fcn.resnet50",
    "fcn.resnet101",
}
"""Our ids of torchvision's networks."""

HEADS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "classifier.0.convs.": ("deeplab_v3", DEEPLAB_V3),
    "classifier.0.weight": ("fcn", FCN),
    "classifier.cbr.": ("lraspp", LRASPP),
}
"""Beginnings of keys that tell the architecture, its name, and the table of its head."""


def recognizes(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a state dict has the keys of a torchvision network."""
    return _head(state) is not None and any(key.startswith("backbone.") for key in state)


def _head(state: Mapping[str, Tensor]) -> str | None:
    return next((head for head in HEADS if any(key.startswith(head) for key in state)), None)


def build(state: Mapping[str, Tensor], path: Path) -> tuple[SegmentationModel, Card]:
    """Build the network of a state dict.

    Raises: `AtrousError` for a backbone that torchvision's networks do not have, and for keys or shapes that differ.
    """
    architecture, table = HEADS[_head(state) or ""]
    model_id = f"{architecture}.{_backbone(path, state)}"
    if model_id not in MODELS:
        raise AtrousError(
            f"{path}: the head is torchvision's {architecture}, but its backbone is not known; expected "
            "deeplabv3_resnet50/101, fcn_resnet50/101, deeplabv3_mobilenet_v3_large or lraspp_mobilenet_v3_large."
        )
    classifiers = (state.get(f"classifier.{name}.weight") for name in ("4", "low_classifier"))
    classes = next((weight.shape[0] for weight in classifiers if weight is not None), 0)
    auxiliary = any(key.startswith("aux_classifier.") for key in state)
    card = _make_card(model_id, name_classes(classes, path), auxiliary=auxiliary)
    with meta_device():
        model = build_from_card(card)
    load_tensors(model, rename_keys(state, (*table, *MOBILENET_V3)), str(path))
    return model, card


def _backbone(path: Path, state: Mapping[str, Tensor]) -> str:
    """Name the backbone by its keys; an empty string if it is not known."""
    if "backbone.16.0.weight" in state:
        return "mobilenet_v3_large"
    units = len({key.split(".")[2] for key in state if key.startswith("backbone.layer3.")})
    if units and units not in DEPTHS:
        raise AtrousError(f"{path}: 'backbone.layer3' has {units} units; expected 6 (ResNet-50) or 23 (ResNet-101).")
    return f"resnet{DEPTHS[units]}" if units else ""


def _arguments(model: str, *, auxiliary: bool) -> dict[str, Any]:
    """List the arguments by which torchvision's network differs from ours."""
    architecture, _, backbone = model.partition(".")
    if architecture == "lraspp":
        return MOBILE_ARGUMENTS
    if backbone == "mobilenet_v3_large":
        return {**MOBILE_ARGUMENTS, **MOBILE_DEEPLAB_ARGUMENTS, "auxiliary": auxiliary}
    deeplab = DEEPLAB_ARGUMENTS if architecture == "deeplab_v3" else {}
    return {"output_stride": 8, "auxiliary": auxiliary, **deeplab}


def _make_card(model: str, table: ClassTable, *, auxiliary: bool) -> Card:
    return Card(
        model=model,
        arguments=_arguments(model, auxiliary=auxiliary),
        classes=table.classes,
        colors=table.colors,
        preprocessing=Preprocessing(resize="shorter_side", size=(520, 520)),
        source="a state dict of torchvision's network",
    )
