"""Atrous convolution: trade the last strides of a network for dilations, and back.

A network with output stride 32 can run at 16 or 8 with the same weights: the last strides are set to 1, and every layer
after a removed stride samples its input that many times more widely. Done exactly, the denser features contain the
strided ones: at stride 8, every fourth pixel equals the features at stride 32 (atrous consistency). So the layer that
loses its stride keeps its dilation, because its input is as dense as before; only the later layers are dilated. Caffe's
DeepLab v2 and PSPNet dilate the whole stage, including its first convolution, which gives other features:
`whole_stage=True`, for weights that were trained so.

Source: DeepLab v1 section 3.1 (the "hole" algorithm), DeepLab v3 section 3 and figure 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from torch import nn

from atrous.errors import AtrousError

Spatial: TypeAlias = "nn.Conv2d | nn.MaxPool2d"


class Geometry(NamedTuple):
    """Stride, dilation, padding and kernel size of a layer, equal along both axes."""

    stride: int
    dilation: int
    padding: int
    kernel: int

    @property
    def keeps_size(self) -> bool:
        """Whether the padding is symmetric and keeps the size of the map, divided by the stride."""
        return self.kernel % 2 == 1 and self.padding == self.dilation * (self.kernel - 1) // 2


def built_geometry(layer: Spatial) -> Geometry:
    """The geometry with which a layer was built, before any change of stride; stored at the first call."""
    known: Geometry | None = getattr(layer, "_built_geometry", None)
    if known is None:
        known = Geometry(*(square(value) for value in (layer.stride, layer.dilation, layer.padding, layer.kernel_size)))
        layer._built_geometry = known  # type: ignore[assignment]
    return known


def block_stride(block: nn.Module) -> int:
    """The factor by which a block reduces the resolution as built; main path and shortcut have the same stride."""
    return max((built_geometry(layer).stride for layer in _spatial(block)), default=1)


def output_strides(blocks: Iterable[nn.Module]) -> list[int]:
    """List the output strides at which a chain of blocks can run, ascending: 1, ..., the stride it was built with."""
    strides = [1]
    for block in blocks:
        if (stride := block_stride(block)) > 1:
            strides.append(strides[-1] * stride)
    return strides


def set_output_stride(blocks: Sequence[nn.Module], output_stride: int, *, whole_stage: bool = False) -> None:
    """Set the output stride of a chain of blocks by removing its last strides; the weights stay as they are.

    `blocks` are layers or modules in order of execution. Within a block the main path comes before the shortcut, in
    order of registration, and has at most one strided layer. An integer attribute `multi_grid` of a block multiplies
    its dilations (DeepLab v3 section 3.2.1). A layer whose attribute `dilates` is False loses its stride but is never
    dilated, as in Caffe, which has no dilated max pooling.

    A layer that loses its stride must keep the size of the map: by an odd kernel with symmetric padding, or by padding
    the end of the map itself (attribute `pads_end`: `CeilConv2d`, `CeilMaxPool2d`).

    Raises: `AtrousError` for a stride at which the chain cannot run, or a strided layer that would change the size of
    the map, such as an unpadded 2x2 convolution.
    """
    possible = output_strides(blocks)
    if output_stride not in possible:
        raise AtrousError(f"output_stride {output_stride}: this network runs at {', '.join(map(str, possible))}.")
    stride = rate = 1
    for block in blocks:
        reduction = block_stride(block)
        remove = stride * reduction > output_stride
        next_rate = rate * reduction if remove else rate
        if not remove:
            stride *= reduction
        after_stride = whole_stage and remove
        for layer in _spatial(block):
            built = built_geometry(layer)
            if remove and built.stride > 1:
                _check_removable(layer)
            dilation = built.dilation * getattr(block, "multi_grid", 1) * (next_rate if after_stride else rate)
            dilates = built.kernel > 1 and getattr(layer, "dilates", True)
            _set_geometry(layer, 1 if remove else built.stride, dilation if dilates else 1)
            after_stride = after_stride or built.stride > 1
        rate = next_rate


def set_dilation(layer: nn.Conv2d, dilation: int) -> None:
    """Set the dilation of a size-keeping convolution, and the padding that keeps the size."""
    _set_geometry(layer, built_geometry(layer).stride, dilation)


def _check_removable(layer: Spatial) -> None:
    built = built_geometry(layer)
    if built.kernel > 1 and not built.keeps_size and not getattr(layer, "pads_end", False):
        kind = "CeilConv2d" if isinstance(layer, nn.Conv2d) else "CeilMaxPool2d"
        raise AtrousError(
            f"{layer}: this stride cannot become a dilation, because without it the map would lose pixels at its end. "
            f"Use a padded odd kernel, or atrous.layers' {kind}, which pads at the bottom and on the right."
        )


def _set_geometry(layer: Spatial, stride: int, dilation: int) -> None:
    built = built_geometry(layer)
    layer.stride = (stride, stride)
    layer.dilation = (dilation, dilation)
    if built.padding and built.padding == built.dilation * (built.kernel - 1) // 2:  # keep the size of the map
        layer.padding = (dilation * (built.kernel - 1) // 2,) * 2


def _spatial(block: nn.Module) -> list[Spatial]:
    return [layer for layer in block.modules() if isinstance(layer, (nn.Conv2d, nn.MaxPool2d))]


def square(value: int | tuple[int, ...] | str) -> int:
    """Reduce a kernel size, stride, dilation or padding to the one number that holds along both axes.

    Raises: `AtrousError` if it differs between the axes, or is a mode such as "same".
    """
    if isinstance(value, int):
        return value
    if isinstance(value, str) or len(set(value)) != 1:
        raise AtrousError(f"Only square, explicitly padded layers can be dilated, not {value}.")
    return value[0]
