"""Run an engine from several threads at once, as far as the free memory goes."""

from __future__ import annotations

import sys

from atrous.allocator import release_freed_memory
from atrous.inference.engines.engine import Batch, Engine
from atrous.inference.memory import free_memory
from atrous.inference.prefetch import BusyTimer, Slots

MEMORY_FRACTION = 0.8
"""The fraction of the free memory that a forward pass may use."""

SMALL_IMAGE_PIXELS = 2**20
"""Up to this many pixels an image is assumed to fit into memory."""


class EngineRunner:
    """Run an engine: `runner(batch)` is `engine(batch)`, with as many calls at once as the engine and memory allow.

    Attributes: `engine`, which may be replaced by one of the same network, such as at another output stride.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._slots = Slots(engine.parallel)
        self._timer = BusyTimer()

    def __call__(self, batch: Batch) -> Batch:
        """Run the engine, alone if the activations of several calls would not fit into memory.

        Shape: (N, 3, H, W) -> (N, K, h, w).
        """
        area = batch.shape[0] * batch.shape[-2] * batch.shape[-1]
        alone = self.engine.parallel > 1 and not self._has_memory_for(area * self.engine.parallel)
        with self._slots.take(alone=alone), self._timer:
            scores = self.engine(batch)
            if self.engine.device.startswith("cuda"):
                sys.modules["torch"].cuda.synchronize(self.engine.device)
        return scores

    @property
    def seconds(self) -> float:
        """The time spent in calls so far; calls at the same time count once."""
        return self._timer.seconds

    def has_memory_alone_for(self, area: float) -> bool:
        """Tell whether the activations of an input of `area` pixels fit into what is free without other calls."""
        if self._has_memory_for(area):
            return True
        with self._slots.take(alone=True):
            return self._has_memory_for(area)

    def _has_memory_for(self, area: float) -> bool:
        """Tell whether the activations of an input of `area` pixels fit into the free memory."""
        if area <= SMALL_IMAGE_PIXELS:
            return True
        needed = area * self.engine.metadata.bytes_per_pixel / MEMORY_FRACTION
        device = self.engine.device
        return needed <= free_memory(device) or (release_freed_memory() and needed <= free_memory(device))
