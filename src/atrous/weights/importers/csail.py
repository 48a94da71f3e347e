"""Import state dicts of CSAIL's semantic-segmentation-pytorch: PSPNet ("ppm") and FCN ("c1") on dilated ResNets.

Encoder and decoder are in two files, `encoder_epoch_20.pth` and `decoder_epoch_20.pth`: given one, the other is read
from the same folder. A single state dict of both, with the prefixes `encoder.` and `decoder.`, is read too. The
dilation is the exact one, at output stride 8; all resizes have `align_corners=False`. The auxiliary head has 512
channels.

Source: semantic-segmentation-pytorch, mit_semseg/models/models.py and resnet.py; normalization of its dataset.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from atrous.card import Card
from atrous.errors import AtrousError
from atrous.models import SegmentationModel
from atrous.weights.importers.networks import Network, build_network, channels_of, find_resnet
from atrous.weights.importers.state_dict import read_state_dict
from atrous.weights.tensors import rename_keys

ENCODER = (
    (r"encoder\.conv1\.", "backbone.conv1.0."),
    (r"encoder\.bn1\.", "backbone.conv1.1."),
    (r"encoder\.conv2\.", "backbone.conv1.3."),
    (r"encoder\.bn2\.", "backbone.conv1.4."),
    (r"encoder\.conv3\.", "backbone.conv1.6."),
    (r"encoder\.bn3\.", "backbone.bn1."),
    (r"encoder\.", "backbone."),
)
AUXILIARY = (
    (r"decoder\.cbr_deepsup\.", "auxiliary.0."),
    (r"decoder\.conv_last_deepsup\.", "auxiliary.2."),
)
PSPNET = (
    (r"decoder\.ppm\.(\d)\.1\.", r"pyramid.convs.\1.0."),
    (r"decoder\.ppm\.(\d)\.2\.", r"pyramid.convs.\1.1."),
    (r"decoder\.conv_last\.([01])\.", r"classifier.0.\1."),
    (r"decoder\.conv_last\.4\.", "classifier.2."),
)
FCN = (
    (r"decoder\.cbr\.", "classifier.0."),
    (r"decoder\.conv_last\.", "classifier.2."),
)


def recognizes(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a state dict has the keys of an encoder, a decoder or both of CSAIL's networks."""
    return any(_is_encoder(state, prefix) or _is_decoder(state, prefix) for prefix in (True, False))


def _is_encoder(state: Mapping[str, Tensor], prefixed: bool = False) -> bool:
    prefix = "encoder." if prefixed else ""
    return (
        f"{prefix}conv3.weight" in state
        and f"{prefix}layer4.0.conv1.weight" in state
        and f"{prefix}bn3.weight" in state
    )


def _is_decoder(state: Mapping[str, Tensor], prefixed: bool = False) -> bool:
    prefix = "decoder." if prefixed else ""
    return any(key.startswith((f"{prefix}conv_last.", f"{prefix}ppm.0.1.")) for key in state) and any(
        key.startswith((f"{prefix}ppm.", f"{prefix}cbr.")) for key in state
    )


def build(state: Mapping[str, Tensor], path: Path) -> tuple[SegmentationModel, Card]:
    """Build the network of a state dict; if it is an encoder or a decoder alone, read the other from the same folder.

    Raises: `AtrousError` for a missing file, another encoder or decoder, and for keys or shapes that differ.
    """
    state = _with_other_half(state, path)
    backbone = find_resnet(state, "encoder.", path)
    auxiliary = any(key.startswith("decoder.cbr_deepsup.") for key in state)
    arguments: dict[str, Any] = {"output_stride": 8, "auxiliary": auxiliary, "auxiliary_weight": 0.4}
    if auxiliary:
        arguments["auxiliary_channels"] = channels_of(state, "decoder.cbr_deepsup.0.weight", path)
    if "decoder.ppm.0.1.weight" in state:
        channels = channels_of(state, "decoder.conv_last.0.weight", path)
        psp = {"channels": channels, "align_corners": False}
        return _build(f"pspnet.{backbone}", arguments | psp, PSPNET, state, path)
    fcn = {"dropout": 0.0, "backbone_options": {"stem": "deep"}}
    return _build(f"fcn.{backbone}", arguments | fcn, FCN, state, path)


def _build(
    name: str, arguments: Mapping[str, Any], table: tuple[tuple[str, str], ...], state: Mapping[str, Tensor], path: Path
) -> tuple[SegmentationModel, Card]:
    used = {key: value for key, value in state.items() if not key.startswith("encoder.fc.")}
    tensors = rename_keys(used, (*table, *AUXILIARY, *ENCODER))
    return build_network(Network(name, arguments, "CSAILVision/semantic-segmentation-pytorch"), tensors, path)


def _with_other_half(state: Mapping[str, Tensor], path: Path) -> Mapping[str, Tensor]:
    """Join the state dicts of encoder and decoder, with these prefixes."""
    if _is_encoder(state, prefixed=True):
        return state
    own, other = ("encoder", "decoder") if _is_encoder(state) else ("decoder", "encoder")
    partner = path.with_name(path.name.replace(own, other, 1))
    if partner == path or not partner.is_file():
        wanted = f"'{partner.name}'" if partner != path else f"the {other}, named like this file with '{other}' in it,"
        raise AtrousError(
            f"{path}: this is the {own} of a network of semantic-segmentation-pytorch; expected {wanted} in the same "
            "folder."
        )
    check = _is_decoder if other == "decoder" else _is_encoder
    rest = read_state_dict(partner)
    if not check(rest):
        raise AtrousError(
            f"{partner}: expected a PSPNet or FCN {other} of semantic-segmentation-pytorch for {path.name}."
        )
    return {f"{own}.{key}": value for key, value in state.items()} | {
        f"{other}.{key}": value for key, value in rest.items()
    }
