"""Networks of timm (PyTorch Image Models; Wightman 2019) as backbones: `timm:NAME`, such as `timm:convnext_tiny`.

Every convolutional network that timm gives feature maps of, at strides 4, 8, 16 and 32: ResNet and its relatives,
RegNet, EfficientNet, MobileNetV2 to V4, ConvNeXt, DenseNet and others. Strides are traded for dilations here, not by
timm's `output_stride`: after training, back again, and exactly. For that, `timm_graph` finds the stride at every layer,
and `timm_layers` replaces layers that lose pixels at the end of a map or average all of it. What cannot be dilated is
refused by name. Networks whose branches of several strides exchange their maps (HRNet) run at output stride 32 only.

Names of parameters are timm's, with `network.` before them; timm's state dicts load unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from atrous.backbones.base import BACKBONES, Backbone
from atrous.backbones.timm_graph import Graph, trace_strides
from atrous.backbones.timm_layers import SAMPLED, replace_layers
from atrous.backbones.timm_library import create_network, pretrained_weights
from atrous.errors import AtrousError
from atrous.layers.dilate import check_output_stride, set_output_stride_of_graph
from atrous.layers.meta import meta_device
from atrous.layers.pad import crop


@BACKBONES.register_prefix("timm:")
class TimmBackbone(Backbone):
    """A network of timm, without its classifier.

    `finest_stride` of 2 adds the map at stride 2, if the network has one. `drop_path_rate` is that of stochastic depth
    in training; `timm_options` are further arguments of `timm.create_model`.

    Shape: (N, in_channels, H, W) -> maps at strides 4, 8, 16, 32, as `channels` and `strides` tell.
    Raises: `AtrousError` for a network that timm lacks, that has other strides, or that cannot be dilated.
    """

    def __init__(
        self,
        name: str,
        *,
        in_channels: int = 3,
        width: float = 1.0,
        finest_stride: int = 4,
        drop_path_rate: float = 0.0,
        timm_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if width != 1:
            raise AtrousError(f"width {width}: networks of timm have the width of their name; choose a narrower one.")
        options = {"in_chans": in_channels, **({"drop_path_rate": drop_path_rate} if drop_path_rate else {})}
        options |= timm_options or {}
        self.network = create_network(name, options)
        keys = set(self.network.state_dict())
        self._indices = _prepare(name, self.network, finest_stride)
        self.classifier_keys = tuple(f"network.{key}" for key in sorted(keys - self.network.state_dict().keys()))
        self.pretrained = pretrained_weights(self.network)
        graph = _trace(name, json.dumps(options, sort_keys=True), finest_stride)
        self._input_strides = graph.input_strides
        self._is_parallel = graph.is_parallel
        self.channels = tuple(channels for channels, _ in graph.maps)
        self.native_strides = tuple(stride for _, stride in graph.maps)

    def released_keys(self) -> list[tuple[str, str]]:
        return [(r"(?!network\.)", "network.")]

    def blocks(self) -> list[nn.Module]:
        return [self.network.get_submodule(name) for name in self._input_strides]

    def possible_output_strides(self) -> list[int]:
        """List the strides that `set_output_stride` accepts: those of its layers, down to that of max pooling."""
        coarsest = self.native_strides[-1]
        if self._is_parallel:
            return [coarsest]
        pooled = [self._input_strides[name] for name in self._input_strides if self._is_padded_pool(name)]
        strides = {*self._input_strides.values(), coarsest}
        return sorted(stride for stride in strides if max(pooled, default=1) <= stride <= coarsest)

    def _is_padded_pool(self, name: str) -> bool:
        """Whether a layer is a max pooling with padding of its own, which torch does not dilate."""
        layer = self.network.get_submodule(name)
        return isinstance(layer, nn.MaxPool2d) and not getattr(layer, "pads_end", False)

    def set_output_stride(self, output_stride: int) -> None:
        check_output_stride(output_stride, self.possible_output_strides())
        layers = {self.network.get_submodule(name): stride for name, stride in self._input_strides.items()}
        if not self._is_parallel:
            convs = {layer: stride for layer, stride in layers.items() if not isinstance(layer, SAMPLED)}
            set_output_stride_of_graph(convs, output_stride)  # type: ignore[arg-type]
            for layer, stride in layers.items():
                if isinstance(layer, SAMPLED):
                    layer.step = max(1, stride // output_stride)
        self._output_stride = output_stride

    def forward(self, x: Tensor) -> list[Tensor]:
        if not self._is_parallel:
            return self._maps(x)
        height, width = x.shape[-2:]
        coarsest = self.native_strides[-1]
        below, right = ((size + coarsest - 1) // coarsest * coarsest - size for size in (height, width))
        maps = self._maps(F.pad(x, (0, right, 0, below)))  # branches are resized by fixed factors
        # Rounded up without negative quotients, which ONNX rounds toward zero.
        sizes = [tuple((size + stride - 1) // stride for size in (height, width)) for stride in self.native_strides]
        return [crop(each, size, top=0, left=0) for each, size in zip(maps, sizes, strict=True)]

    def _maps(self, x: Tensor) -> list[Tensor]:
        return self.network.forward_intermediates(x, indices=self._indices, intermediates_only=True)  # type: ignore[operator]


def _prepare(name: str, network: Any, finest_stride: int) -> list[int]:
    """Remove what follows the last map, and replace layers; return the indices of the maps.

    Raises: `AtrousError` for a network without maps at the usual strides.
    """
    last = {each["reduction"]: index for index, each in enumerate(getattr(network, "feature_info", []))}
    if not {4, 8, 16, 32} <= last.keys() or not hasattr(network, "prune_intermediate_layers"):
        raise _refusal(name, f"it has maps at the strides {', '.join(map(str, sorted(last))) or 'of no kind'}")
    indices = [last[stride] for stride in sorted(last) if finest_stride <= stride <= 32]
    network.prune_intermediate_layers(indices, prune_norm=True, prune_head=True)
    replace_layers(network)
    return indices


@cache
def _trace(name: str, options: str, finest_stride: int) -> Graph:
    """Find the strides of a network, once for all that are built alike."""
    with meta_device():
        network = create_network(name, json.loads(options))
    indices = _prepare(name, network, finest_stride)

    def forward(x: Tensor) -> list[Tensor]:
        return network.forward_intermediates(x, indices=indices, intermediates_only=True)  # type: ignore[operator]

    try:
        graph = trace_strides(network, forward, json.loads(options)["in_chans"])
    except AtrousError as error:
        raise _refusal(name, str(error)) from error
    strides = [stride for _, stride in graph.maps]
    if strides != sorted(strides) or strides[-1] != 32:
        raise _refusal(name, f"it has maps at the strides {', '.join(map(str, strides))}")
    return graph


def _refusal(name: str, reason: str) -> AtrousError:
    return AtrousError(
        f"timm:{name} cannot be a backbone here, because {reason}. Maps at strides 4, 8, 16 and 32 are needed, whose "
        "strides can become dilations: choose a convolutional network without attention and anti-aliased pooling, such "
        "as timm:resnet50, timm:regnety_032 or timm:convnext_tiny."
    )
