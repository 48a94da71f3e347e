"""Import state dicts of other libraries, from files of `torch.save` or safetensors, by their keys and shapes alone.

A library is one module with

    recognizes(state) -> bool                   # by the names of the tensors
    build(state, path) -> (model, card)         # `path` is for messages

and one line in `LIBRARIES`.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from atrous.console import printable
from atrous.errors import AtrousError
from atrous.weights.importers.formats import is_safetensors
from atrous.weights.importers.pickled import Placeholder, SurveyError, survey
from atrous.weights.tensors import damaged_file_error

if TYPE_CHECKING:
    from atrous.card import Card
    from atrous.models import SegmentationModel

LIBRARIES = {
    "torchvision": "torchvision",
    "smp": "segmentation_models_pytorch",
    "transformers": "transformers",
    "mmseg": "mmsegmentation",
    "vainf": "VainF/DeepLabV3Plus-Pytorch",
    "kazuto1011": "kazuto1011/deeplab-pytorch",
    "csail": "CSAILVision/semantic-segmentation-pytorch",
}
"""The modules of this package that recognize state dicts, in the order in which they are tried, and their libraries."""

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net")
"""Entries of a training checkpoint that hold the state dict, in the order in which they are looked up."""

PREFIXES = ("module.", "_orig_mod.", "model.")
"""Prefixes of all keys that wrappers of a network add: DataParallel, torch.compile, Lightning."""

_SHOWN = 4


def read(path: Path) -> tuple[SegmentationModel, Card]:
    """Read the network of a state dict.

    Raises: `AtrousError` for a damaged file, one that contains more than tensors, and an unknown network.
    """
    state = read_state_dict(path)
    for module in LIBRARIES:
        library = import_module(f"{__package__}.{module}")
        if library.recognizes(state):
            result: tuple[SegmentationModel, Card] = library.build(state, path)
            return result
    shown = ", ".join(f"'{printable(key):.200}' {tuple(value.shape)}" for key, value in list(state.items())[:_SHOWN])
    more = f" and {len(state) - _SHOWN} more" if len(state) > _SHOWN else ""
    raise AtrousError(
        f"{path}: this file has no card of atrous, and its keys are those of no known network: {shown}{more}. Known "
        f"are segmentation networks of {', '.join(LIBRARIES.values())}."
    )


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a state dict, without running code from the file.

    A safetensors file, or one of `torch.save`, read by torch's restricted unpickler; a checkpoint of a training that
    contains the state dict (see `WRAPPERS`) is unwrapped, and prefixes that all keys share (`PREFIXES`) are removed.

    Raises: `AtrousError` for a damaged file, and one that contains no state dict.
    """
    if is_safetensors(path):
        try:
            return _strip(load_file(path))
        except (SafetensorError, OSError) as error:
            raise damaged_file_error(path, str(error)) from error
    return _strip(_unwrap(_unpickle(path), path))


def _unpickle(path: Path) -> Any:
    """Read the objects of a file with torch's restricted unpickler, and placeholders for those it does not know.

    Checkpoints of trainings contain, beside the tensors, objects such as the numbers of NumPy or the history of a loss.
    """
    try:
        placeholders: list[Any] = [(Placeholder, name) for name in survey(path)]
        with torch.serialization.safe_globals(placeholders):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise AtrousError(
            f"{path}: this file contains more than tensors, or is damaged; objects that could run code are not loaded. "
            "Save the state dict alone: torch.save(model.state_dict(), FILE)."
        ) from error
    except Exception as error:  # a damaged pickle raises whatever the operation that it reaches raises
        reason = str(error) if isinstance(error, SurveyError) else type(error).__name__
        raise damaged_file_error(path, " ".join(reason.split())[:200]) from error


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """Find the state dict in a checkpoint of a training."""
    while isinstance(content, Mapping) and (wrapper := next((key for key in WRAPPERS if key in content), None)):
        if not isinstance(content[wrapper], Mapping):
            break
        content = content[wrapper]
    is_state = isinstance(content, Mapping) and all(
        isinstance(key, str) and _is_plain(value) for key, value in content.items()
    )
    if not is_state or not content:
        entries = f"the entries {', '.join(map(str, list(content)[:_SHOWN]))}" if isinstance(content, Mapping) else ""
        raise AtrousError(
            f"{path}: expected a state dict (names to tensors), found {entries or type(content).__name__}; save it "
            "with torch.save(model.state_dict(), FILE)."
        )
    return dict(content)


def _is_plain(value: Any) -> bool:
    """Tell whether a value is a tensor with numbers in memory, neither sparse nor quantized nor complex."""
    return (
        type(value) in (Tensor, torch.nn.Parameter)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_complex())
    )


def _strip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove prefixes that all keys share."""
    while prefix := next((prefix for prefix in PREFIXES if state and all(key.startswith(prefix) for key in state)), ""):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state
