"""Exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from atrous.models import SegmentationModel, build_from_card
from atrous.training.fsdp import gather, gather_state, is_sharded, shard_like


class EMA:
    """Exponential moving average of all parameters; buffers (the statistics of batch normalization) are not averaged.

    The decay is at most (1 + n) / (10 + n) after n updates, so that the initial weights are forgotten sooner.
    Source: `tf.train.ExponentialMovingAverage`.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.values = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the current parameters."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, value in model.named_parameters():
            self.values[name].lerp_(value, 1 - decay)

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Replace the parameters of a network by their averages inside the `with` block."""
        own = {name: value.data for name, value in model.named_parameters()}
        for name, value in model.named_parameters():
            value.data = self.values[name]
        try:
            yield
        finally:
            for name, value in model.named_parameters():
                value.data = own[name]

    def state_dict(self) -> dict[str, Any]:
        """Gather the state; under FSDP, all processes have to call this."""
        return {"updates": self.updates, "values": {name: gather(value) for name, value in self.values.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state, sharded as the parameters are."""
        self.updates = int(state["updates"])
        for name, value in state["values"].items():
            self.values[name] = shard_like(value, self.values[name])


@contextmanager
def averaged_model(model: SegmentationModel, ema: EMA | None) -> Iterator[SegmentationModel]:
    """Give the network to validate and export: with averaged weights if there are any, gathered if it is sharded."""
    if is_sharded(model):
        assert model.card is not None
        gathered = build_from_card(model.card).to(next(model.parameters()).device)
        gathered.load_state_dict(gather_state(model) | (ema.state_dict()["values"] if ema else {}))
        gathered.card = model.card
        yield gathered
    elif ema is None:
        yield model
    else:
        with ema.applied_to(model):
            yield model
