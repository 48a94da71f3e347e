"""Summarize a network stage by stage: shape, stride, dilation, receptive field, parameters and multiply-adds.

This works for any architecture: the network runs on the "meta" device, where nothing is computed, while hooks record
which module is running and a `ReceptiveFieldTracer` follows the receptive field of every feature map. A stage is a
child of the network, or of its backbone, with a convolution, pooling or resizing inside; neighbors in one container
with equal channels and stride are merged into one stage.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from atrous.analysis.counts import count_parameters, format_count, skip_data_dependent
from atrous.analysis.receptive_field import ReceptiveFieldTracer
from atrous.backbones.base import Backbone
from atrous.layers.meta import meta_device
from atrous.models.base import MODELS, SegmentationModel

PROBE_SIDES = (2049, 16385)
"""Sides of the images in which receptive fields are measured: the second if the first is too small for all of them."""

WHOLE_IMAGE = "image"

FieldSize: TypeAlias = "tuple[int | None, int | None]"
"""Height and width of a receptive field in image pixels; None is the whole image."""


@dataclass(frozen=True)
class StageSummary:
    """One stage of a network. If it runs at several scales of the image, all but `multiply_adds` describe the first."""

    name: str
    """Path of the module in the network; `(output)` is the whole network."""
    shape: tuple[int, int, int]
    """Channels, height and width of its output."""
    stride: int
    """Output stride: image pixels per pixel of its output."""
    dilations: tuple[int, ...]
    """The distinct dilations of its convolutions larger than 1x1, in order of execution."""
    receptive_field: FieldSize
    """Receptive field of one value of its output."""
    parameters: int
    multiply_adds: int
    inputs: tuple[int, ...] = ()
    """Indices of the stages whose outputs it uses; -1 is the image."""
    fields_of_view: tuple[int, ...] = ()
    """Fields of view of the classifiers in it, where the paper counts them; see `SegmentationModel.fields_of_view`."""


@dataclass(frozen=True)
class ModelSummary:
    """A network for one size of the image."""

    name: str
    size: tuple[int, int]
    stages: tuple[StageSummary, ...]
    layers: tuple[StageSummary, ...]
    """The same for every single layer (convolution, pooling, ...) that is a module."""
    parameters: int
    multiply_adds: int

    COLUMNS = (
        "stage",
        "channels",
        "output size",
        "output stride",
        "dilation",
        "receptive field",
        "field of view",
        "parameters",
        "multiply-adds",
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """The headers of the rows: `COLUMNS`, without the field of view if no classifier has one."""
        return tuple(name for name in self.COLUMNS if name != "field of view" or self._has_fields_of_view)

    @property
    def _has_fields_of_view(self) -> bool:
        return any(stage.fields_of_view for stage in self.stages)

    def rows(self, *, layers: bool = False) -> list[tuple[str, ...]]:
        """Format the stages, or the layers, as the text of `columns`."""
        return [
            (
                stage.name,
                str(stage.shape[0]),
                f"{stage.shape[1]}x{stage.shape[2]}",
                str(stage.stride),
                ", ".join(map(str, stage.dilations)),
                format_field(stage.receptive_field),
                *([", ".join(map(str, stage.fields_of_view))] if self._has_fields_of_view else []),
                f"{stage.parameters:,}",
                format_count(stage.multiply_adds),
            )
            for stage in (self.layers if layers else self.stages)
        ]


def format_field(size: FieldSize) -> str:
    """Format the size of a receptive field: `91`, `3x15`, or `image` for the whole image."""
    height, width = (WHOLE_IMAGE if side is None else str(side) for side in size)
    return height if height == width else f"{height}x{width}"


def explain(
    model: str | nn.Module, size: tuple[int, int] = (513, 513), *, in_channels: int = 3, **arguments: Any
) -> ModelSummary:
    """Summarize the stages of a network, or of any module that takes an image, without computing anything.

    `size` is the height and width of the image. An id is built with the `arguments`; a module is not changed.

    Raises: `AtrousError` for an operation whose receptive field is unknown, or an unknown id or argument.
    """
    if isinstance(model, str):
        with meta_device():
            network: nn.Module = MODELS.create(model, in_channels=in_channels, **arguments)
        name = model
    else:
        network, name = copy.deepcopy(model).to("meta"), type(model).__name__
    network.eval()
    trace = _Trace(network, in_channels, size)
    stages = _stage_paths(network, trace.records)
    layers = [record.path for record in trace.records if record.path and record.is_leaf and record.is_spatial]
    probe = _probe(network, in_channels, stages)
    return ModelSummary(
        name=name,
        size=size,
        stages=tuple(_merge_stages([_summarize(network, trace, probe, path) for path in [*stages, ""]])),
        layers=tuple(_summarize(network, trace, probe, path) for path in dict.fromkeys(layers)),
        parameters=count_parameters(network),
        multiply_adds=trace.by_path[""].multiply_adds,
    )


@dataclass
class _ModuleRecord:
    """Record of the calls of one module: output and receptive field of the first call, multiply-adds of all calls."""

    path: str
    is_leaf: bool
    shape: tuple[int, int, int] = (0, 0, 0)
    stride: int = 1
    dilations: list[int] = field(default_factory=list)
    receptive_field: FieldSize = (None, None)
    is_global: tuple[bool, bool] = (True, True)
    multiply_adds: int = 0
    is_spatial: bool = False
    """Whether it contains a convolution, pooling, resizing or padding."""
    sources: frozenset[int] = frozenset()


class _Trace:
    """One forward pass with a record of every module. The outputs of `stages` are labeled, to find where they enter."""

    def __init__(
        self, network: nn.Module, in_channels: int, size: tuple[int, int], *, stages: Sequence[str] = ()
    ) -> None:
        self.records: list[_ModuleRecord] = []
        self.by_path: dict[str, _ModuleRecord] = {}
        self._running: list[_ModuleRecord] = []
        self._stages = {path: index for index, path in enumerate([*stages, ""])}
        image = torch.empty(1, in_channels, *size, device="meta")
        with (
            torch.no_grad(),
            skip_data_dependent(network) as self._skipped,
            self._hooks(network),
            ReceptiveFieldTracer(self._on_op) as self._tracer,
        ):
            self._tracer.sources[self._tracer.set_image(image)] = frozenset((-1,))
            network(image)

    @contextmanager
    def _hooks(self, network: nn.Module) -> Iterator[None]:
        handles = []
        for path, module in network.named_modules():

            def enter(module: nn.Module, args: Any, path: str = path) -> None:
                record = self.by_path.get(path) or _ModuleRecord(path, is_leaf=not any(module.children()))
                if path not in self.by_path:
                    self.by_path[path] = record
                    self.records.append(record)
                record.sources |= self._sources(args)
                self._running.append(record)

            def leave(module: nn.Module, args: Any, output: Any, path: str = path) -> None:
                if module in self._skipped:
                    self._tracer.make_global(output)
                    self._running[-1].is_spatial = True
                self._record_output(self._running.pop(), output)
                if path and path in self._stages:
                    for tensor in _flatten(output):
                        self._tracer.sources[tensor] = frozenset((self._stages[path],))

            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _sources(self, args: Any) -> frozenset[int]:
        return frozenset().union(*(self._tracer.sources.get(tensor, ()) for tensor in _flatten(args)))

    def _record_output(self, record: _ModuleRecord, output: Any) -> None:
        maps = [tensor for tensor in _flatten(output) if self._tracer.receptive_field(tensor) is not None]
        if not record.path:
            record.sources = self._sources(output)
        if not maps or any(record.shape):
            return
        spans = self._tracer.receptive_field(maps[-1])
        assert spans is not None
        rows, columns = spans
        record.shape = (maps[-1].shape[1], len(rows), len(columns))
        record.stride = max(1, round(min(rows.stride, columns.stride)))
        record.receptive_field = rows.size(), columns.size()
        record.is_global = rows.is_global, columns.is_global

    def _on_op(self, func: Any, args: Sequence[Any], result: Any) -> None:
        packet = func._overloadpacket
        flops = flop_registry[packet](*args, out_val=result) // 2 if packet in flop_registry else 0
        is_convolution = packet is torch.ops.aten.convolution
        is_spatial = is_convolution or any(word in packet.__name__ for word in ("pool", "upsample", "pad"))
        for record in self._running:
            record.multiply_adds += flops
            record.is_spatial = record.is_spatial or is_spatial
            if is_convolution and max(args[1].shape[2:]) > 1 and (dilation := max(args[5])) not in record.dilations:
                record.dilations.append(dilation)


def _stage_paths(network: nn.Module, records: Sequence[_ModuleRecord]) -> list[str]:
    """List the stages: children of the network and its backbone, and of containers that are never called themselves."""
    by_path = {record.path: record for record in records}

    def expand(path: str, module: nn.Module) -> Iterator[str]:
        for name, child in module.named_children():
            inner = f"{path}.{name}" if path else name
            if inner not in by_path or isinstance(child, (Backbone, SegmentationModel)):
                yield from expand(inner, child)
            elif by_path[inner].is_spatial:
                yield inner

    order = {record.path: index for index, record in enumerate(records)}
    return sorted(expand("", network), key=order.__getitem__)


def _probe(network: nn.Module, in_channels: int, stages: Sequence[str]) -> _Trace:
    """Trace an image large enough for every finite receptive field, or the largest of `PROBE_SIDES`."""
    for side in PROBE_SIDES:
        trace = _Trace(network, in_channels, (side, side), stages=stages)
        fields = [zip(record.receptive_field, record.is_global, strict=True) for record in trace.records]
        if all(size or is_global for axes in fields for size, is_global in axes):
            break
    return trace


def _summarize(network: nn.Module, trace: _Trace, probe: _Trace, path: str) -> StageSummary:
    record = trace.by_path[path]
    return StageSummary(
        name=path or "(output)",
        shape=record.shape,
        stride=record.stride,
        dilations=tuple(record.dilations) if path else (),
        receptive_field=probe.by_path[path].receptive_field,
        parameters=count_parameters(network.get_submodule(path)),
        multiply_adds=record.multiply_adds,
        inputs=tuple(sorted(probe.by_path[path].sources)),
        fields_of_view=_fields_of_view(network, path),
    )


def _fields_of_view(network: nn.Module, path: str) -> tuple[int, ...]:
    """List the fields of view of the classifiers inside a module of a network."""
    if not path or not isinstance(network, SegmentationModel):
        return ()
    return tuple(size for name, size in network.fields_of_view().items() if f"{name}.".startswith(f"{path}."))


def _merge_stages(stages: Sequence[StageSummary]) -> list[StageSummary]:
    """Merge successive stages of one container with equal channels and stride: `features.4` to `features.6`.

    A stage whose output is also used elsewhere ends a merged stage.
    """
    merged: list[StageSummary] = []
    position: dict[int, int] = {-1: -1}
    uses = Counter(source for stage in stages for source in stage.inputs)
    for index, stage in enumerate(stages):
        inputs = {position[source] for source in stage.inputs}
        last = merged[-1] if merged else None
        if last and _can_merge(last, stage) and inputs == {len(merged) - 1} and uses[index - 1] == 1:
            first = last.name.partition("-")[0]
            merged[-1] = replace(
                stage,
                name=f"{first}-{stage.name.rpartition('.')[2]}",
                dilations=tuple(dict.fromkeys(last.dilations + stage.dilations)),
                parameters=last.parameters + stage.parameters,
                multiply_adds=last.multiply_adds + stage.multiply_adds,
                inputs=last.inputs,
                fields_of_view=last.fields_of_view + stage.fields_of_view,
            )
        else:
            merged.append(replace(stage, inputs=tuple(sorted(inputs))))
        position[index] = len(merged) - 1
    return merged


def _can_merge(last: StageSummary, stage: StageSummary) -> bool:
    """Check for numbered children of the same container with equal channels and stride."""
    (parent, _, low), (other_parent, _, high) = last.name.rpartition("."), stage.name.rpartition(".")
    numbered = low.partition("-")[0].isdigit() and high.isdigit()
    return numbered and parent == other_parent and (last.shape[0], last.stride) == (stage.shape[0], stage.stride)


def _flatten(value: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
