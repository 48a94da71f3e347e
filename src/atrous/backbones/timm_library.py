"""Import timm, with or without torchvision; its networks, and where their weights are.

timm requires torchvision, but its networks use none of it: `timm.layers` imports one class to convert frozen batch
normalization, and `timm.data`, from which the networks import the constants of normalization, imports the transforms of
images. Without a torchvision that works (none installed, or one built for another torch), stand-ins take their places
while timm is imported, and are removed after it: whoever looks for torchvision later finds as much as before.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from atrous.backbones.base import Pretrained
from atrous.errors import AtrousError, did_you_mean

HUB = "https://huggingface.co"


@cache
def import_timm() -> Any:
    """Import timm and its networks.

    Raises: `AtrousError` if timm is not installed.
    """
    if "timm" in sys.modules:
        return sys.modules["timm"]
    spec = find_spec("timm")
    if spec is None or spec.origin is None:
        raise AtrousError("This needs timm: pip install --no-deps timm huggingface_hub, or pip install atrous[timm].")
    if _torchvision_works():
        return import_module("timm")
    with _stand_ins(Path(spec.origin).parent):
        return import_module("timm")


def _torchvision_works() -> bool:
    try:
        import_module("torchvision.ops.misc")
    except (ImportError, RuntimeError):  # built for another torch, it fails as its operators are registered
        return False
    return True


@contextmanager
def _stand_ins(folder: Path) -> Iterator[None]:
    """Let the imports of timm find what they need of torchvision and of `timm.data`."""
    misc, data = ModuleType("torchvision.ops.misc"), ModuleType("timm.data")
    misc.FrozenBatchNorm2d = type("FrozenBatchNorm2d", (nn.Module,), {})  # type: ignore[attr-defined]
    data.__path__ = [str(folder / "data")]
    names = {"torchvision": ModuleType("torchvision"), "torchvision.ops": ModuleType("torchvision.ops")}
    names |= {misc.__name__: misc, data.__name__: data}
    hidden = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "torchvision"}
    for name in hidden:
        del sys.modules[name]
    sys.modules.update(names)
    try:
        constants = import_module("timm.data.constants")
        vars(data).update({name: value for name, value in vars(constants).items() if name.isupper()})
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


def create_network(name: str, options: Mapping[str, Any]) -> nn.Module:
    """Build a network of timm with random weights.

    Raises: `AtrousError` for an unknown name, with the nearest known ones, or an option that the network lacks.
    """
    timm = import_timm()
    network, _, tag = name.partition(".")
    if not timm.is_model(network):
        names = timm.list_models()
        raise AtrousError(
            f"timm has no network '{network}'.{did_you_mean(network, names)} It has {len(names)}: timm.list_models()."
        )
    tags = [each.partition(".")[2] for each in timm.list_models(f"{network}.*", pretrained=True)]
    if tag and tag not in tags:
        raise AtrousError(
            f"timm has no weights '{tag}' of {network}.{did_you_mean(tag, tags)} It has {', '.join(tags)}."
        )
    try:
        return timm.create_model(name, pretrained=False, **options)
    except TypeError as error:
        raise AtrousError(f"timm:{name} cannot be built with {dict(options)}: {error}.") from error


def pretrained_weights(network: nn.Module) -> dict[str, Pretrained]:
    """Describe the weights that timm has for a network: by default, or by the tag in its name."""
    config: Mapping[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    repository, url = config.get("hf_hub_id") or "", config.get("url") or ""
    name = f"{config['architecture']}.{config['tag']}" if config.get("tag") else config["architecture"]
    digest, file = "", f"{name}.safetensors"
    if repository.startswith("timm/"):
        url = f"{HUB}/{repository}/resolve/main/model.safetensors"
    elif (named := re.search(r"-([0-9a-f]{8,64})\.pth$", url)) is not None:
        digest, file = named[1], ""
    else:  # files of others, which timm converts in its own ways
        return {}
    mean, std = (tuple(round(255 * value, 6) for value in config[key]) for key in ("mean", "std"))
    license = str(config.get("license") or "unknown")
    return {"imagenet": Pretrained(digest, mean, std, license, url=url, file=file)}
