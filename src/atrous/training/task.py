"""A stage of a recipe as a Lightning module: the loss, the optimizer, the learning rate, the moving average."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from atrous.data.loading import Batch
from atrous.errors import AtrousError, did_you_mean
from atrous.layers.norm import BatchNorm2d, freeze_batch_norm, synchronize_batch_norm, unfreeze_batch_norm
from atrous.models import SegmentationModel, build_from_card
from atrous.training.config import Optimizer
from atrous.training.fsdp import is_sharded, like, shard, whole, whole_state
from atrous.training.losses import every, supervise
from atrous.training.stage import Stage

FEW = 8
"""Images per group of batch normalization below which its statistics are too rough: DeepLab v3, table 9."""

Supervised = Callable[[Tensor], list[tuple[Tensor, float]]]

_OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], Optimizer], torch.optim.Optimizer]] = {
    "sgd": lambda groups, how: torch.optim.SGD(groups, lr=how.lr, momentum=how.momentum, nesterov=how.nesterov),
    "adam": lambda groups, how: torch.optim.Adam(groups, lr=how.lr, betas=(how.momentum, 0.999)),
    "adamw": lambda groups, how: torch.optim.AdamW(groups, lr=how.lr, betas=(how.momentum, 0.999)),
}


class SegmentationTask(L.LightningModule):
    """One stage. `start` is the step it was resumed at; `sharded` shares the network out over the processes.

    All randomness of a step is seeded with the step, so that a resumed training draws what it would have drawn.
    """

    def __init__(
        self,
        model: SegmentationModel,
        stage: Stage,
        *,
        steps: int,
        start: int = 0,
        seed: int = 0,
        ignore_index: int = 255,
        sharded: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.sharded = sharded
        self.stage = stage
        self.steps = steps
        self.start = start
        self.seed = seed
        self.loss = stage.make_loss(ignore_index)
        trial = torch.zeros(1, model.num_classes, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long)
        supervise([(trial[0], 1.0)], trial[1], self.loss, step=0)  # class weights of another number are found now
        self.schedule = stage.make_schedule()
        self.ema: MovingAverage | None = None
        how = stage.preprocessing
        self.flipped = how.channel_order == "BGR"
        self.register_buffer("mean", torch.tensor(how.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(how.std)[:, None, None], persistent=False)
        set_batch_norm(model, stage)
        freeze(model, stage.freeze)
        if stage.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._supervised: Supervised = model.training_outputs
        self.losses: list[Tensor] = []
        """Of the portions of the current step."""

    @property
    def step(self) -> int:
        """Steps done, those before a resumption included."""
        return self.start + self.trainer.global_step

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The one there is, once the trainer has made it."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return optimizer

    def train(self, mode: bool = True) -> SegmentationTask:
        super().train(mode)
        _quiet_dropout(self.model, self.stage.freeze)
        return self

    def configure_optimizers(self) -> torch.optim.Optimizer:
        how = self.stage.optimizer
        groups = self.model.parameter_groups(
            how.lr,
            weight_decay=how.weight_decay,
            head_lr_mult=how.head,
            bias_lr_mult=how.bias,
            decay_bias=how.decay_bias,
            decay_norm=how.decay_norm,
            decay_depthwise=how.decay_depthwise,
        )
        if not groups:
            raise AtrousError(f"stage '{self.stage.name}': freeze {list(self.stage.freeze)} leaves nothing to learn.")
        for group in groups:
            group["full_lr"] = group["lr"]
        return _OPTIMIZERS[how.name](groups, how)

    def configure_model(self) -> None:
        if self.sharded:
            assert self.device_mesh is not None
            shard(self.model, self.device_mesh["data_parallel"])
        supervised = self.model.training_outputs
        self._supervised = torch.compile(supervised) if self.stage.compile else supervised

    def on_train_start(self) -> None:
        if self.ema is not None:
            self.ema.follow(self.model)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        portion = batch_idx % self.stage.accumulate
        torch.manual_seed(_seed_of(self.seed, self.step, portion, self.global_rank))
        factor = self.schedule(self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_lr"] * factor

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        outputs = self._supervised(self.prepare(batch.images))
        labels, stride = batch.labels, self.stage.loss_stride
        if stride > 1:
            corners = self.model.align_corners
            outputs = [(every(stride, logits, corners=corners), weight) for logits, weight in outputs]
            labels = every(stride, labels, corners=corners)
        loss = supervise(outputs, labels, self.loss, step=self.step)
        if not math.isfinite(loss.item()):
            raise AtrousError(
                f"The loss is {loss.item()} in step {self.step + 1} of stage '{self.stage.name}', on "
                f"{', '.join(batch.names)}. The last checkpoint is from before: look at these images, or lower the "
                "learning rate (optimizer.lr), warm it up (warm_up.steps), or clip gradients (clip=1), and start anew."
            )
        self.losses.append(loss.detach())
        return loss

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        if self.ema is not None:
            self.ema.update(self.model)

    def prepare(self, images: Tensor) -> Tensor:
        """Images as the network takes them.

        Shape: (N, 3, H, W) uint8 RGB -> (N, 3, H, W) float32.
        """
        values = (images.flip(1) if self.flipped else images).float()
        memory = torch.channels_last if self.stage.channels_last else torch.contiguous_format
        return ((values - self.mean) / self.std).contiguous(memory_format=memory)  # type: ignore[operator]

    @contextmanager
    def averaged(self) -> Iterator[SegmentationModel]:
        """The network with the averaged weights, where there is an average, for as long as the block lasts."""
        if is_sharded(self.model):
            yield self._put_together()
        elif self.ema is None:
            yield self.model
        else:
            with self.ema.in_place_of(self.model):
                yield self.model

    def finished(self) -> SegmentationModel:
        """The network as it was exported, for the next stage to start from."""
        if is_sharded(self.model):
            return self._put_together()
        if self.ema is not None:
            self.ema.copy_to(self.model)
        return self.model

    def _put_together(self) -> SegmentationModel:
        """A whole network of what is shared out, with averaged weights where there is an average."""
        assert self.model.card is not None
        network = build_from_card(self.model.card).to(self.device)
        averages = {} if self.ema is None else {name: whole(value) for name, value in self.ema.values.items()}
        network.load_state_dict({**whole_state(self.model), **averages})
        network.card = self.model.card
        return network


class MovingAverage:
    """An exponential moving average of all parameters; statistics of batch normalization are the newest.

    In the beginning the decay is (1 + n) / (10 + n) after n updates, where that is less, to forget the start sooner.
    Source: `tf.train.ExponentialMovingAverage`.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.values = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, value in model.named_parameters():
            self.values[name].lerp_(value.to(self.values[name].dtype), 1 - decay)

    def follow(self, model: nn.Module) -> None:
        """Keep the average where the parameters are."""
        for name, value in model.named_parameters():
            self.values[name] = like(self.values[name], value)

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        own = {name: value.data for name, value in model.named_parameters()}
        for name, value in model.named_parameters():
            value.data = self.values[name].to(value.dtype)
        try:
            yield
        finally:
            for name, value in model.named_parameters():
                value.data = own[name]

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        for name, value in model.named_parameters():
            value.copy_(self.values[name])

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "values": {name: whole(value) for name, value in self.values.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = int(state["updates"])
        for name, value in state["values"].items():
            self.values[name].copy_(value)


def set_batch_norm(model: SegmentationModel, stage: Stage) -> None:
    """Give batch normalization the state a stage asks for; it lasts through any call of `train()`."""
    if stage.batch_norm.startswith("frozen"):
        freeze_batch_norm(model, affine=stage.batch_norm == "frozen_affine")
    else:
        unfreeze_batch_norm(model)
    synchronize_batch_norm(model, stage.batch_norm == "sync")
    if stage.batch_norm_momentum is not None:
        for layer in model.modules():
            if isinstance(layer, BatchNorm2d):
                layer.momentum = stage.batch_norm_momentum


def batch_norm_warning(model: nn.Module, stage: Stage, processes: int) -> str:
    """What to say of batch normalization that learns from too few images; nothing where all is well."""
    learning = any(isinstance(layer, BatchNorm2d) and not layer.frozen for layer in model.modules())
    group = stage.batch // stage.accumulate // (1 if stage.batch_norm == "sync" else processes)
    if not learning or group >= FEW:
        return ""
    return (
        f"Batch normalization takes statistics from {group} image{'s' * (group > 1)} at a time; below {FEW} they are "
        "rough (DeepLab v3, table 9: 64.4 mIoU at 4, 77.2 at 16). Freeze it (batch_norm=frozen) or enlarge the batch."
    )


def freeze(model: SegmentationModel, parts: tuple[str, ...]) -> None:
    """Let the parameters of some parts, by their names, learn nothing.

    Raises: `AtrousError` for a part that the network has not.
    """
    names = dict(model.named_parameters())
    for part in parts:
        inside = [value for name, value in names.items() if name == part or name.startswith(f"{part}.")]
        if not inside:
            known = {name for name, _ in model.named_children()}
            raise AtrousError(f"freeze: the network has no part '{part}'.{did_you_mean(part, known)}")
        for value in inside:
            value.requires_grad_(False)


def _quiet_dropout(model: nn.Module, frozen: tuple[str, ...]) -> None:
    """A frozen part runs as in evaluation, its dropout and batch normalization included."""
    for part in frozen:
        for name, module in model.named_modules():
            if name == part:
                module.eval()


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
