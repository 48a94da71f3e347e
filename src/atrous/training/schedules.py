"""How the learning rate changes in time: multipliers of it, functions of the step alone.

A schedule is called with a step, counted from 0, and how many there are. It holds no state, so resuming needs none.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from atrous.errors import AtrousError


class Schedule(Protocol):
    """What all schedules are."""

    def __call__(self, step: int, steps: int) -> float:
        """What the learning rate is multiplied by in the given step of so many."""


@dataclass(frozen=True)
class Fixed:
    """Always 1: FCN, SegNet."""

    def __call__(self, step: int, steps: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Poly:
    """(1 - step / steps)^power, down to `end`.

    Source: DeepLab v2 section 4.1.1 (power 0.9); the `end_learning_rate` of TensorFlow's `polynomial_decay`.
    """

    power: float = 0.9
    end: float = 0.0

    def __call__(self, step: int, steps: int) -> float:
        return (1 - self.end) * (1 - min(step, steps) / steps) ** self.power + self.end


@dataclass(frozen=True)
class Step:
    """Times `gamma` after `every` steps each, or at the steps `at`.

    Source: DeepLab v1 section 4.1 (0.1 every 2000).
    """

    every: int = 0
    at: Sequence[int] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if bool(self.every) == bool(self.at) or self.every < 0 or list(self.at) != sorted(self.at):
            raise AtrousError(f"every {self.every}, at {list(self.at)}: give either one, the steps in ascending order.")

    def __call__(self, step: int, steps: int) -> float:
        return self.gamma ** (bisect_right(self.at, step) if self.at else step // self.every)


@dataclass(frozen=True)
class WarmUp:
    """Another schedule, in the first `steps` steps times a factor that rises evenly from `start` to 1.

    Source: Goyal et al., arXiv 1706.02677, section 2.2.
    """

    schedule: Schedule
    steps: int
    start: float = 0.1

    def __call__(self, step: int, steps: int) -> float:
        rising = self.start + (1 - self.start) * step / self.steps if step < self.steps else 1.0
        return rising * self.schedule(step, steps)


SCHEDULES: Mapping[str, type[Schedule]] = {"fixed": Fixed, "poly": Poly, "step": Step}
"""What recipes call them."""
