"""Learning-rate schedules: multipliers of the learning rate, functions of the step alone.

A schedule is called with a step, counted from 0, and the number of steps. It holds no state, so resuming needs none.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch.optim import Optimizer

from atrous.errors import AtrousError


class Schedule(Protocol):
    """Interface of all schedules."""

    def __call__(self, step: int, steps: int) -> float:
        """Compute the multiplier of the learning rate in step `step` of `steps`."""


@dataclass(frozen=True)
class Constant:
    """Constant learning rate: FCN, SegNet."""

    def __call__(self, step: int, steps: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Poly:
    """The "poly" schedule, (1 - step / steps)^power, decaying to `end_factor`.

    Source: DeepLab v2 section 4.1.1 (power 0.9); the `end_learning_rate` of TensorFlow's `polynomial_decay`.
    """

    power: float = 0.9
    end_factor: float = 0.0

    def __call__(self, step: int, steps: int) -> float:
        return (1 - self.end_factor) * (1 - min(step, steps) / steps) ** self.power + self.end_factor


@dataclass(frozen=True)
class Step:
    """Step decay: multiply by `gamma` every `step_size` steps, or at the steps listed in `milestones`.

    Source: DeepLab v1 section 4.1 (0.1 every 2000).
    """

    step_size: int = 0
    milestones: Sequence[int] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        milestones = list(self.milestones)
        if bool(self.step_size) == bool(milestones) or self.step_size < 0 or milestones != sorted(milestones):
            raise AtrousError(
                f"step_size {self.step_size}, milestones {milestones}: give either a positive step_size or milestones "
                "in ascending order."
            )

    def __call__(self, step: int, steps: int) -> float:
        return self.gamma ** (bisect_right(self.milestones, step) if self.milestones else step // self.step_size)


@dataclass(frozen=True)
class WarmUp:
    """Linear warmup from `start_factor` to 1 in the first `steps` steps, multiplied with another schedule.

    Source: Goyal et al., arXiv 1706.02677, section 2.2.
    """

    schedule: Schedule
    steps: int
    start_factor: float = 0.1

    def __call__(self, step: int, steps: int) -> float:
        factor = self.start_factor + (1 - self.start_factor) * step / self.steps if step < self.steps else 1.0
        return factor * self.schedule(step, steps)


def set_learning_rate(optimizer: Optimizer, factor: float) -> None:
    """Multiply the initial learning rate of every parameter group by the factor of a schedule."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


SCHEDULES: Mapping[str, type[Schedule]] = {"constant": Constant, "poly": Poly, "step": Step}
"""Schedules by their names in recipes."""
