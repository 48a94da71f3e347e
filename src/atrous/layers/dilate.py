"""Atrous convolution: trade the last strides of a network for dilations, and back.

A network with output stride 32 can run at 16 or 8 with the same weights: the last strides are set to 1, and every later
layer's dilation is multiplied by the removed stride. Done exactly, the denser features contain the strided ones: at
stride 8, every fourth pixel equals the features at stride 32 (atrous consistency). Removing a layer's
stride leaves that layer's dilation as it is, because its input is as dense as before, and multiplies the dilation of
every later layer, later ones that lose their own stride included. In a network whose last two stages, of two 3x3
convolutions each, begin with a stride of 2:

    output stride 32: strides 2, 1, 2, 1; dilations 1, 1, 1, 1
    output stride 16: strides 2, 1, 1, 1; dilations 1, 1, 1, 2
    output stride 8:  strides 1, 1, 1, 1; dilations 1, 2, 2, 4

Caffe's DeepLab v2 and PSPNet also dilate the convolution that loses its stride, which computes different features:
`whole_stage=True`, for weights that were trained this way.

Source: DeepLab v1 section 3.1 (the "hole" algorithm), DeepLab v3 section 3 and figure 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

from torch import nn

from atrous.errors import AtrousError

ConvOrPool: TypeAlias = "nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d"


class Geometry(NamedTuple):
    """Stride, dilation, padding and kernel size of a layer, equal along both axes."""

    stride: int
    dilation: int
    padding: int
    kernel: int

    def centered_padding(self, dilation: int) -> int:
        """Compute the padding that centers the kernel at a dilation: half its extent, rounded down."""
        return dilation * (self.kernel - 1) // 2

    @property
    def is_centered(self) -> bool:
        """Whether the padding centers the kernel."""
        return self.padding == self.centered_padding(self.dilation)

    @property
    def keeps_size(self) -> bool:
        """Whether the padding is symmetric and keeps the size of the map, divided by the stride."""
        return self.kernel % 2 == 1 and self.is_centered


def original_geometry(layer: ConvOrPool) -> Geometry:
    """Read the geometry with which a layer was built.

    It is stored on the layer at the first call. Every change of a stride or dilation here calls this function first, so
    the stored geometry is the original one, provided that nothing else changes the layer before.
    """
    known: Geometry | None = getattr(layer, "_original_geometry", None)
    if known is None:
        known = Geometry(*(single_value(layer, name) for name in ("stride", "dilation", "padding", "kernel_size")))
        layer._original_geometry = known  # type: ignore[assignment]
    return known


def original_stride(conv: nn.Conv2d) -> tuple[int, ...]:
    """Read the stride with which a convolution was built, along both axes."""
    known: Geometry | None = getattr(conv, "_original_geometry", None)
    return tuple(conv.stride) if known is None else (known.stride,) * 2


def block_stride(block: nn.Module) -> int:
    """Compute the factor by which a block reduces the resolution as built; main path and shortcut have the same one."""
    return max((original_geometry(layer).stride for layer in _convs_and_pools(block)), default=1)


def output_strides(blocks: Iterable[nn.Module]) -> list[int]:
    """List the output strides at which a chain of blocks can run, ascending: 1, ..., the stride it was built with."""
    strides = [1]
    for block in blocks:
        if (stride := block_stride(block)) > 1:
            strides.append(strides[-1] * stride)
    return strides


def check_output_stride(output_stride: int, possible: Sequence[int]) -> None:
    """Check that an output stride is possible.

    Raises: `AtrousError` if it is not, with the possible ones.
    """
    if output_stride not in possible:
        raise AtrousError(f"output_stride {output_stride}: this network runs at {', '.join(map(str, possible))}.")


def set_output_stride(blocks: Sequence[nn.Module], output_stride: int, *, whole_stage: bool = False) -> None:
    """Set the output stride of a chain of blocks by removing its last strides; the weights stay as they are.

    `blocks` are layers or modules in order of execution. Within a block the main path comes before the shortcut, in
    order of registration, and has at most one strided layer. An integer attribute `multi_grid` of a block multiplies
    its dilations (DeepLab v3 section 3.2.1). `whole_stage` also dilates the layer that loses its stride. A layer whose
    attribute `dilates` is False loses its stride but is never dilated, as in Caffe, which has no dilated max pooling.

    A layer that loses its stride must keep the size of the map: by an odd kernel with symmetric padding, or by padding
    the end of the map itself (attribute `pads_end`: `CeilConv2d`, `CeilMaxPool2d`).

    Raises: `AtrousError` for a stride at which the chain cannot run, or a strided layer that would change the size of
    the map, such as an unpadded 2x2 convolution; then no layer has changed.
    """
    check_output_stride(output_stride, output_strides(blocks))
    changes: list[tuple[ConvOrPool, int, int]] = []
    stride = rate = 1
    for block in blocks:
        reduction = block_stride(block)
        remove = stride * reduction > output_stride
        next_rate = rate * reduction if remove else rate
        if not remove:
            stride *= reduction
        use_next_rate = whole_stage and remove
        for layer in _convs_and_pools(block):
            original = original_geometry(layer)
            if remove and original.stride > 1:
                _check_removable(layer)
            dilation = original.dilation * getattr(block, "multi_grid", 1) * (next_rate if use_next_rate else rate)
            dilates = original.kernel > 1 and getattr(layer, "dilates", True)
            changes.append((layer, 1 if remove else original.stride, dilation if dilates else 1))
            use_next_rate = use_next_rate or original.stride > 1
        rate = next_rate
    for layer, new_stride, new_dilation in changes:
        _set_geometry(layer, new_stride, new_dilation)


def set_output_stride_of_graph(input_strides: Mapping[ConvOrPool, int], output_stride: int) -> None:
    """Set the output stride of a network of any shape, such as one with parallel branches.

    `input_strides` gives the stride at the input of each convolution and pooling, as the network was built. What is
    finer than `output_stride` stays; beyond it, strides are removed, and dilations multiplied by what was removed
    before. This is `set_output_stride` without the order of blocks.

    Raises: `AtrousError` for a strided layer that would change the size of the map; then no layer has changed.
    """
    changes: list[tuple[ConvOrPool, int, int]] = []
    for layer, stride in input_strides.items():
        original = original_geometry(layer)
        kept = min(stride, output_stride)
        new_stride = min(stride * original.stride, output_stride) // kept
        if new_stride < original.stride:
            _check_removable(layer)
        changes.append((layer, new_stride, original.dilation * stride // kept if original.kernel > 1 else 1))
    for layer, new_stride, new_dilation in changes:
        _set_geometry(layer, new_stride, new_dilation)


def set_dilation(layer: nn.Conv2d, dilation: int) -> None:
    """Set the dilation of a size-keeping convolution, and the padding that keeps the size."""
    _set_geometry(layer, original_geometry(layer).stride, dilation)


def _check_removable(layer: ConvOrPool) -> None:
    original = original_geometry(layer)
    if original.kernel > 1 and not original.keeps_size and not getattr(layer, "pads_end", False):
        kind = "CeilConv2d" if isinstance(layer, nn.Conv2d) else "CeilMaxPool2d"
        raise AtrousError(
            f"{layer}: this stride cannot become a dilation, because without it the map would lose pixels at its end. "
            f"Use a padded odd kernel, or atrous.layers' {kind}, which pads at the bottom and on the right."
        )


def _set_geometry(layer: ConvOrPool, stride: int, dilation: int) -> None:
    original = original_geometry(layer)
    layer.stride = (stride, stride)
    layer.dilation = (dilation, dilation)
    if original.padding and original.is_centered:
        layer.padding = (original.centered_padding(dilation),) * 2


def _convs_and_pools(block: nn.Module) -> list[ConvOrPool]:
    return [layer for layer in block.modules() if isinstance(layer, (nn.Conv2d, nn.MaxPool2d))]


def single_value(layer: ConvOrPool, name: Literal["stride", "dilation", "padding", "kernel_size"]) -> int:
    """Read a layer's stride, dilation, padding or kernel size, which must be equal along both axes.

    Raises: `AtrousError` if it differs between the axes, or is a mode such as "same".
    """
    value: int | tuple[int, ...] | str = getattr(layer, name)
    if isinstance(value, int):
        return value
    if isinstance(value, str) or len(set(value)) != 1:
        raise AtrousError(
            f"{layer}: this layer cannot be dilated, because its {name} {value!r} is not one number for both axes. "
            "Use a square kernel, with one number each as its stride, dilation and padding."
        )
    return value[0]
