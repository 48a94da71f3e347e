"""Save weights to files, and load them.

Weights are saved as safetensors files whose metadata contain the card and a checksum of the tensors. Files of other
projects are read by importers. Reading a file never runs code in it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from atrous.card import Card
from atrous.errors import AtrousError
from atrous.files import writing
from atrous.layers.meta import meta_device
from atrous.models import SegmentationModel, build_from_card
from atrous.weights.find import SUFFIX, find_weights, is_read_only
from atrous.weights.header import digest_tensors, has_card, read_header
from atrous.weights.importers import import_file
from atrous.weights.rebuild import rebuild
from atrous.weights.tensors import damaged_file_error, load_tensors
from atrous.weights.transfer import ClassList, replace_classes

log = logging.getLogger("atrous")


def save(
    model: SegmentationModel, path: str | os.PathLike[str], *, card: Card | None = None, half: bool = False
) -> Path:
    """Save a model and its card (by default `model.card`) to a safetensors file; `half` stores 16-bit floats.

    The statistics of batch normalization stay as they are: in 16 bits, variances would overflow or vanish.

    Raises: `AtrousError` for a model without a card, a name that does not end in .safetensors, or a file that is not
    writable.
    """
    path = Path(path)
    card = card or model.card
    if card is None:
        raise AtrousError(
            "This model has no card with its classes and preprocessing, which whoever loads the weights needs. Set "
            "model.card, or pass card=."
        )
    if path.suffix != SUFFIX:
        raise AtrousError(f"{path}: the name of a file of weights must end in {SUFFIX}; rename it.")
    rounded = dict(model.named_parameters(remove_duplicate=False)) if half else {}
    tensors = {
        key: value.detach().to("cpu", torch.float16 if key in rounded else value.dtype).contiguous()
        for key, value in model.state_dict().items()
    }
    _write(tensors, card, path)
    return path


def _write(tensors: dict[str, Tensor], card: Card, path: Path) -> None:
    metadata = {"format": "pt", "atrous": card.model_dump_json(), "atrous_sha256": _digest(tensors)}
    content = serialize(tensors, metadata)  # its writer of files would leave a file of its own if the process is killed
    with writing(path, sync=True) as temporary:
        temporary.write_bytes(content)


def load(
    source: str | os.PathLike[str],
    *,
    num_classes: int | None = None,
    classes: Sequence[str] | ClassList | None = None,
    arguments: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
) -> SegmentationModel:
    """Load a segmentation network with its weights, in evaluation mode, by id or from a file.

        >>> import atrous
        >>> model = atrous.load("deeplab_v3_plus.efficientnet_lite0.camvid")
        >>> model.card.classes
        ('sky', 'building', 'pole', ...)

    `source` is an id (`atrous.list_weights()` lists them), a `.safetensors` file that atrous saved, or a file of
    another project that an importer reads (TensorFlow, Caffe, state dicts). The file of an id is searched for in the
    folders of the environment variable `ATROUS_WEIGHTS` (separated as in `PATH`), then in the user's cache
    (`ATROUS_CACHE` moves it), then in the package; otherwise it is downloaded to the cache, unless `ATROUS_OFFLINE` is
    set. `hf://user/name`, with `@revision` if wanted, is the id of a repository on the Hugging Face hub.

    To train the network on other classes, give their number or their names (a list, a data set or a card): the network
    then has a new classifier, which a warning in the log says. Of classes with the same name, the rows of the
    classifier are copied; with a number alone, all rows are new.

        >>> model = atrous.load("deeplab_v3.mobilenet_v2.voc", classes=["background", "person", "umbrella"])

    `arguments` of the network replace those of the card: some files of other projects do not tell them all, and the
    weights fit networks that differ in more than names.

        >>> model = atrous.load("smp.pth", arguments={"output_stride": 16, "backbone_options": {"whole_stage": False}})

    The network takes normalized images; `model.card.preprocessing` describes how. `atrous.Segmenter.load` applies it,
    and takes photographs.

    Returns: the network on `device`; `model.card` has its classes, preprocessing, license and measured figures.
    Raises: `AtrousError` for an unknown id (with the nearest known ones), a file that is missing, damaged, altered or
    of an unknown format, a failed download, both `num_classes` and `classes`, and arguments that the network lacks or
    that the tensors do not fit.
    """
    if num_classes is not None and classes is not None:
        raise AtrousError("num_classes and classes were both given: give the names, or only their number.")
    path = find_weights(source)
    model, card = _read(path) if has_card(path) else import_file(path)
    if arguments:
        model, card = rebuild(model, card, arguments, str(source))
    model.card = card
    wanted = num_classes if classes is None else classes
    if wanted is not None:
        model, report = replace_classes(model, wanted, str(source))
        if report.new_classes:
            log.warning("The classifier is new and has to be trained: %s", report)
    return model.eval().to(device)


def write_card(path: str | os.PathLike[str], card: Card, target: str | os.PathLike[str] | None = None) -> None:
    """Replace the card of a safetensors file, for example to add measured figures; the tensors stay the same.

    With `target` the file is left as it is, and a copy with the card is written.

    Raises: `AtrousError` for a file without a card, a damaged file, one of the package or the cache, or one that is not
    writable.
    """
    path = Path(path)
    target = path if target is None else Path(target)
    if path.suffix != SUFFIX:
        raise AtrousError(f"{path}: only {SUFFIX} files contain a card; convert it with `atrous import-weights`.")
    if is_read_only(target):
        raise AtrousError(f"{target} is a file of the package or of the cache, which is read-only: write a copy of it.")
    tensors, _ = _read_verified(path)
    _write(tensors, card, target)


def _read(path: Path) -> tuple[SegmentationModel, Card]:
    tensors, card = _read_verified(path)
    with meta_device():
        model = build_from_card(card)
    load_tensors(model, tensors, str(path))
    return model, card


def _read_verified(path: Path) -> tuple[dict[str, Tensor], Card]:
    """Read tensors and card, and check that the tensors are the saved ones."""
    header = read_header(path)
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise damaged_file_error(path, str(error)) from error
    if header.digest is not None and header.digest != _digest(tensors):
        raise damaged_file_error(path, "the checksum of the tensors differs")
    return tensors, header.card


def _digest(tensors: dict[str, Tensor]) -> str:
    return digest_tensors(
        {key: value.contiguous().reshape(-1).view(torch.uint8).numpy() for key, value in tensors.items()}
    )
