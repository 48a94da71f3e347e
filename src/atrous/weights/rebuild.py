"""Load the tensors of a network into one with other arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atrous.card import Card
from atrous.errors import AtrousError
from atrous.layers.meta import meta_device
from atrous.models import SegmentationModel, build_from_card
from atrous.weights.tensors import load_tensors


def rebuild(
    model: SegmentationModel, card: Card, arguments: Mapping[str, Any], where: str
) -> tuple[SegmentationModel, Card]:
    """Build a network again with other arguments, such as an output stride, and load its tensors; its card names them.

    Arguments within `backbone_options` are replaced one by one.

    Raises: `AtrousError` for arguments that the network lacks, or that the tensors do not fit.
    """
    if "num_classes" in arguments:
        raise AtrousError(
            f"{where}: num_classes is read from the file's classifier: {model.num_classes}. Leave it out."
        )
    merged = dict(card.arguments)
    for key, value in arguments.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = {**merged[key], **value}
        else:
            merged[key] = value
    align_corners = arguments.get("align_corners", card.align_corners) is True
    card = Card(**{**dict(card), "arguments": merged, "align_corners": align_corners})
    with meta_device():
        other = build_from_card(card)
    load_tensors(other, model.state_dict(), where)
    return other, card
