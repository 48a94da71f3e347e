"""A network stage by stage: what comes out, how coarse, how dilated, what it sees and what it costs.

Nothing here knows any architecture. The network is run on the "meta" device, on which nothing is computed; hooks tell
which module is running, and a `FieldTracer` what every map can see. A stage is a part of the network, or of its
backbone, in which a convolution, pooling or resizing takes place; neighbors of the same channels and stride in one
container are shown as one.
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

from atrous.analysis.counts import count_parameters, count_text, without_values
from atrous.analysis.receptive_field import FieldTracer
from atrous.backbones.base import Backbone
from atrous.models.base import MODELS, SegmentationModel

SIDES = (2049, 16385)
"""Sides of the images that receptive fields are measured in: the second where the first does not hold all."""

WHOLE = "image"

ReceptiveField: TypeAlias = "tuple[int | None, int | None]"
"""Height and width in image pixels; None: the whole image."""


@dataclass(frozen=True)
class Stage:
    """One part of a network, as it was run; where it is run at several scales, at the first, but for its cost."""

    name: str
    """Its path in the network; `(output)` is the whole."""
    shape: tuple[int, int, int]
    """Channels, height and width of its output."""
    stride: int
    """By how much its output is coarser than the image."""
    dilations: tuple[int, ...]
    """The different dilations of its convolutions larger than 1x1, in order."""
    receptive_field: ReceptiveField
    """Of one value of its output."""
    parameters: int
    multiply_adds: int
    inputs: tuple[int, ...] = ()
    """Indices of the stages whose outputs enter it; -1 is the image."""


@dataclass(frozen=True)
class Explanation:
    """A network at one size of the image."""

    name: str
    size: tuple[int, int]
    stages: tuple[Stage, ...]
    layers: tuple[Stage, ...]
    """The same for every single convolution, pooling and so on that is a module."""
    parameters: int
    multiply_adds: int

    HEADER = ("stage", "ch.", "size", "stride", "dilation", "sees", "parameters", "madds")

    def rows(self, *, layers: bool = False) -> list[tuple[str, ...]]:
        """The stages, or the layers, as text under `HEADER`."""
        return [
            (
                stage.name,
                str(stage.shape[0]),
                f"{stage.shape[1]}x{stage.shape[2]}",
                str(stage.stride),
                ", ".join(map(str, stage.dilations)),
                field_text(stage.receptive_field),
                f"{stage.parameters:,}",
                count_text(stage.multiply_adds),
            )
            for stage in (self.layers if layers else self.stages)
        ]


def field_text(receptive_field: ReceptiveField) -> str:
    """`91`, `3x15`, or `image` for all of it."""
    height, width = (WHOLE if side is None else str(side) for side in receptive_field)
    return height if height == width else f"{height}x{width}"


def explain(
    model: str | nn.Module, size: tuple[int, int] = (513, 513), *, in_channels: int = 3, **arguments: Any
) -> Explanation:
    """Run a network, or any module of one image, without computing anything, and tell about each of its stages.

    `size` is the image's height and width. A name is built with the `arguments`; a network that is given is not
    touched.

    Raises: `AtrousError` where an operation's receptive field is not known, or a name or argument is not.
    """
    if isinstance(model, str):
        with torch.device("meta"):
            network: nn.Module = MODELS.create(model, in_channels=in_channels, **arguments)
        name = model
    else:
        network, name = copy.deepcopy(model).to("meta"), type(model).__name__
    network.eval()
    run = _Run(network, in_channels, size)
    stages = _stages(network, run.calls)
    layers = [call.path for call in run.calls if call.path and call.leaf and call.spatial]
    large = _large_run(network, in_channels, stages)
    return Explanation(
        name=name,
        size=size,
        stages=tuple(_merged([_stage(network, run, large, path) for path in [*stages, ""]])),
        layers=tuple(_stage(network, run, large, path) for path in dict.fromkeys(layers)),
        parameters=count_parameters(network),
        multiply_adds=run.by_path[""].multiply_adds,
    )


@dataclass
class _Call:
    """What hooks and tracer tell of a module's runs: output and field of the first, multiply-adds of all."""

    path: str
    leaf: bool
    shape: tuple[int, int, int] = (0, 0, 0)
    stride: int = 1
    dilations: list[int] = field(default_factory=list)
    receptive_field: ReceptiveField = (None, None)
    whole: tuple[bool, bool] = (True, True)
    multiply_adds: int = 0
    spatial: bool = False
    """Something in it changes resolution, or looks beyond a pixel, or is a convolution at least."""
    sources: frozenset[int] = frozenset()


class _Run:
    """One pass, with a record of every module that took part. `stages` are marked, to find what enters which."""

    def __init__(
        self, network: nn.Module, in_channels: int, size: tuple[int, int], *, stages: Sequence[str] = ()
    ) -> None:
        self.calls: list[_Call] = []
        self.by_path: dict[str, _Call] = {}
        self._running: list[_Call] = []
        self._stages = {path: index for index, path in enumerate([*stages, ""])}
        image = torch.empty(1, in_channels, *size, device="meta")
        with (
            torch.no_grad(),
            without_values(network) as self._needy,
            self._hooked(network),
            FieldTracer(self._on_op) as self._tracer,
        ):
            self._tracer.sources[self._tracer.watch(image)] = frozenset((-1,))
            network(image)

    @contextmanager
    def _hooked(self, network: nn.Module) -> Iterator[None]:
        handles = []
        for path, module in network.named_modules():

            def enter(module: nn.Module, args: Any, path: str = path) -> None:
                call = self.by_path.get(path) or _Call(path, leaf=not any(module.children()))
                if path not in self.by_path:
                    self.by_path[path] = call
                    self.calls.append(call)
                call.sources |= self._sources(args)
                self._running.append(call)

            def leave(module: nn.Module, args: Any, output: Any, path: str = path) -> None:
                if module in self._needy:
                    self._tracer.widen(output)
                    self._running[-1].spatial = True
                self._note(self._running.pop(), output)
                if path and path in self._stages:
                    for tensor in _flat(output):
                        self._tracer.sources[tensor] = frozenset((self._stages[path],))

            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _sources(self, args: Any) -> frozenset[int]:
        return frozenset().union(*(self._tracer.sources.get(tensor, ()) for tensor in _flat(args)))

    def _note(self, call: _Call, output: Any) -> None:
        maps = [tensor for tensor in _flat(output) if self._tracer.field(tensor) is not None]
        if not call.path:
            call.sources = self._sources(output)
        if not maps or any(call.shape):
            return
        seen = self._tracer.field(maps[-1])
        assert seen is not None
        rows, columns = seen
        call.shape = (maps[-1].shape[1], len(rows), len(columns))
        call.stride = max(1, round(min(rows.stride, columns.stride)))
        call.receptive_field = rows.size(), columns.size()
        call.whole = rows.whole, columns.whole

    def _on_op(self, func: Any, args: Sequence[Any], result: Any) -> None:
        packet = func._overloadpacket
        flops = flop_registry[packet](*args, out_val=result) // 2 if packet in flop_registry else 0
        convolves = packet is torch.ops.aten.convolution
        spatial = convolves or any(word in packet.__name__ for word in ("pool", "upsample", "pad"))
        for call in self._running:
            call.multiply_adds += flops
            call.spatial = call.spatial or spatial
            if convolves and max(args[1].shape[2:]) > 1 and (dilation := max(args[5])) not in call.dilations:
                call.dilations.append(dilation)


def _stages(network: nn.Module, calls: Sequence[_Call]) -> list[str]:
    """The parts worth a line: children of the network and its backbone, and of containers that are never run whole."""
    ran = {call.path: call for call in calls}

    def open_up(path: str, module: nn.Module) -> Iterator[str]:
        for name, child in module.named_children():
            inner = f"{path}.{name}" if path else name
            if inner not in ran or isinstance(child, (Backbone, SegmentationModel)):
                yield from open_up(inner, child)
            elif ran[inner].spatial:
                yield inner

    order = {call.path: index for index, call in enumerate(calls)}
    return sorted(open_up("", network), key=order.__getitem__)


def _large_run(network: nn.Module, in_channels: int, stages: Sequence[str]) -> _Run:
    """On an image that holds every module's receptive field, as far as it has one, or the largest we try."""
    for side in SIDES:
        run = _Run(network, in_channels, (side, side), stages=stages)
        fields = [zip(call.receptive_field, call.whole, strict=True) for call in run.calls]
        if all(extent or whole for axes in fields for extent, whole in axes):
            break
    return run


def _stage(network: nn.Module, run: _Run, large: _Run, path: str) -> Stage:
    call = run.by_path[path]
    return Stage(
        name=path or "(output)",
        shape=call.shape,
        stride=call.stride,
        dilations=tuple(call.dilations) if path else (),
        receptive_field=large.by_path[path].receptive_field,
        parameters=count_parameters(network.get_submodule(path)),
        multiply_adds=call.multiply_adds,
        inputs=tuple(sorted(large.by_path[path].sources)),
    )


def _merged(stages: Sequence[Stage]) -> list[Stage]:
    """Successive parts of one container, of the same channels and stride, as one: `features.4` to `features.6`.

    A part whose output something else reads as well stays the last of its kind.
    """
    merged: list[Stage] = []
    place: dict[int, int] = {-1: -1}
    readers = Counter(source for stage in stages for source in stage.inputs)
    for index, stage in enumerate(stages):
        inputs = {place[source] for source in stage.inputs}
        last = merged[-1] if merged else None
        if last and _alike(last, stage) and inputs == {len(merged) - 1} and readers[index - 1] == 1:
            first = last.name.partition("-")[0]
            merged[-1] = replace(
                stage,
                name=f"{first}-{stage.name.rpartition('.')[2]}",
                dilations=tuple(dict.fromkeys(last.dilations + stage.dilations)),
                parameters=last.parameters + stage.parameters,
                multiply_adds=last.multiply_adds + stage.multiply_adds,
                inputs=last.inputs,
            )
        else:
            merged.append(replace(stage, inputs=tuple(sorted(inputs))))
        place[index] = len(merged) - 1
    return merged


def _alike(last: Stage, stage: Stage) -> bool:
    """Numbered children of the same container, whose maps have the same channels and stride."""
    (one, _, low), (other, _, high) = last.name.rpartition("."), stage.name.rpartition(".")
    numbered = low.partition("-")[0].isdigit() and high.isdigit()
    return numbered and one == other and (last.shape[0], last.stride) == (stage.shape[0], stage.stride)


def _flat(value: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
