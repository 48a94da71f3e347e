"""What every backbone promises."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from atrous.errors import AtrousError
from atrous.layers.dilate import output_strides, set_output_stride
from atrous.registry import Registry


class Backbone(nn.Module):
    """Feature maps of an image, from fine to coarse.

    `backbone(x)` returns one map per stage; `channels` and `strides` describe them and stay true after any change of
    stride. A stage's map is its last one before the next stride.

    Shape: (N, in_channels, H, W) -> [(N, channels[i], ceil(H / strides[i]), ceil(W / strides[i])), ...].
    """

    channels: tuple[int, ...]
    native_strides: tuple[int, ...]
    whole_stage = False  # the Caffe way of dilating, see `layers.dilate`
    classifier_keys: ClassVar[tuple[str, ...]] = ()
    """Prefixes of the ImageNet classifier's keys, dropped when a state dict is loaded into a backbone without one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(_drop_classifier)

    @abstractmethod
    def units(self) -> list[nn.Module]:
        """The chain of modules that strides are counted along, in order of execution."""

    @property
    def output_stride(self) -> int:
        """The stride of the coarsest map."""
        return getattr(self, "_output_stride", self.native_strides[-1])

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of each stage's map, as the network stands."""
        return tuple(min(stride, self.output_stride) for stride in self.native_strides)

    def set_output_stride(self, output_stride: int) -> None:
        """Trade the last strides for dilations, or back.

        Raises: `AtrousError` for a stride the network cannot have.
        """
        possible = self.possible_output_strides()
        if output_stride not in possible:
            raise AtrousError(f"output_stride {output_stride}: this network runs at {', '.join(map(str, possible))}.")
        set_output_stride(self.units(), output_stride, whole_stage=self.whole_stage)
        self._output_stride = output_stride

    def grid_units(self) -> list[nn.Module]:
        """The units of the last stage that multi-grid factors apply to, one each; none where the paper knows none."""
        return []

    def set_multi_grid(self, grid: Sequence[int]) -> None:
        """Multiply the dilations of the last stage's units by these factors.

        Source: DeepLab v3 section 3.2.1.
        Raises: `AtrousError` where the number of factors is not the number of units.
        """
        units = self.grid_units()
        if len(grid) != len(units) or any(factor < 1 for factor in grid):
            raise AtrousError(
                f"multi_grid {tuple(grid)}: {type(self).__name__} takes {len(units)} factors of 1 or more."
            )
        for unit, factor in zip(units, grid, strict=True):
            unit.grid = factor  # type: ignore[assignment]
        self.set_output_stride(self.output_stride)

    def possible_output_strides(self) -> list[int]:
        """All strides that `set_output_stride` takes, ascending."""
        return output_strides(self.units())

    def classify(self, image: Tensor) -> Tensor:
        """Class logits of the image, for a backbone built with `num_classes`.

        Shape: (N, in_channels, H, W) -> (N, num_classes).
        Raises: `AtrousError` where it has no classifier.
        """
        if not any(name.startswith(self.classifier_keys) for name, _ in self.named_parameters()):
            raise AtrousError(f"This {type(self).__name__} has no classifier; build it with num_classes=1000.")
        return self._classify(self(image)[-1])

    def _classify(self, features: Tensor) -> Tensor:
        raise AtrousError(f"{type(self).__name__} has no classifier.")


def _drop_classifier(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(module, Backbone)
    own = {prefix + name for name in module.state_dict()}  # buffers are part of it
    for key in list(state_dict):
        if key.startswith(tuple(prefix + start for start in module.classifier_keys)) and key not in own:
            del state_dict[key]


BACKBONES: Registry[Backbone] = Registry("backbone")
register_backbone = BACKBONES.register
