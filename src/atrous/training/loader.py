"""Deterministic sampling: seed and step fix the samples, whatever the number of workers and processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Sampler

from atrous.data.catalog import open_dataset
from atrous.data.dataset import SegmentationDataset
from atrous.data.loading import (
    AugmentedDataset,
    BorderWeights,
    SampleLoader,
    collate,
    duplicate_hard_images,
    join_datasets,
)
from atrous.data.overlap import check_not_trained_on, image_digests, pack_digests, unpack_digests
from atrous.errors import AtrousError
from atrous.training.config import DataConfig, StageConfig

Key = tuple[int, int]
"""An epoch and the index of a sample in it."""


def open_training_data(config: DataConfig) -> SegmentationDataset:
    """Open and join the training data, with the images of hard classes duplicated.

    Raises: `AtrousError` if there are no images.
    """
    dataset = join_datasets([open_dataset(spec) for spec in config.train])
    if not dataset.items:
        raise AtrousError(f"{dataset.name}: the split '{dataset.split}' contains no images.")
    if not config.duplicate_classes:
        return dataset
    return duplicate_hard_images(dataset, config.duplicate_classes, times=config.duplicate_times)


def open_stage_data(config: DataConfig) -> tuple[SegmentationDataset, SegmentationDataset | None]:
    """Open the training and the validation data, if any.

    Raises: `AtrousError` if there are no images, the classes differ, or the masks do not fit a weight map.
    """
    data = open_training_data(config)
    make_weight_map(data, config)
    val = open_dataset(config.val) if config.val else None
    if val is not None and val.classes != data.classes:
        raise AtrousError(
            f"Validation classes differ from training classes: {config.val} has {', '.join(val.classes)}; "
            f"{data.name} has {', '.join(data.classes)}. Use a `val` with the same classes, or val='' to train without "
            "validation."
        )
    return data, val


def add_trained_images(
    trained: str, data: SegmentationDataset, val: SegmentationDataset | None, config: DataConfig
) -> str:
    """Add a stage's images to those `trained` on before, packed as in a card, and check that `val` has none of them.

    Raises: `AtrousError` if it has, unless `config.allow_overlap` is set.
    """
    digests = unpack_digests(trained) | image_digests(data)
    if val is not None and not config.allow_overlap:
        check_not_trained_on(digests, val, "set data.allow_overlap=true")
    return pack_digests(digests)


@dataclass(frozen=True)
class StepBatchSampler(Sampler[list[Key]]):
    """Sample the keys of every micro-batch of every step, for one of several processes.

    The images are shuffled in each epoch, and batches are taken from the sequence of all epochs: a batch may contain
    the end of one epoch and the beginning of the next, and all batches are full.
    """

    images: int
    batch: int
    steps: int
    start: int = 0
    accumulate: int = 1
    rank: int = 0
    processes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch % (self.accumulate * self.processes):
            raise AtrousError(
                f"A batch of {self.batch} is not divisible into {self.accumulate} micro-batches for each of "
                f"{self.processes} processes: choose a multiple of {self.accumulate * self.processes}."
            )

    def __len__(self) -> int:
        return (self.steps - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[Key]]:
        order: dict[int, list[int]] = {}
        for step in range(self.start, self.steps):
            keys = []
            for position in range(step * self.batch, (step + 1) * self.batch):
                epoch, place = divmod(position, self.images)
                if epoch not in order:
                    order = {e: o for e, o in order.items() if e >= epoch - 1}
                    order[epoch] = np.random.default_rng((self.seed, epoch)).permutation(self.images).tolist()
                keys.append((epoch, order[epoch][place]))
            own = keys[self.rank :: self.processes]
            size = len(own) // self.accumulate
            yield from (own[size * micro_step : size * (micro_step + 1)] for micro_step in range(self.accumulate))


def make_weight_map(dataset: SegmentationDataset, config: DataConfig) -> BorderWeights | None:
    """Make the weight map that a recipe asks for, if any.

    Raises: `AtrousError` for a data set whose masks do not tell objects apart.
    """
    if not config.border_weight:
        return None
    if dataset.instances is None:
        raise AtrousError(
            f"{dataset.name}: data.border_weight={config.border_weight:g} weights the borders of touching objects, but "
            "masks here do not number the objects. Write `coding: instances` in classes.yaml if they do, or set "
            "data.border_weight=0."
        )
    return BorderWeights(dataset.instances, config.border_weight, config.border_sigma)


def make_loader(
    dataset: SegmentationDataset,
    stage: StageConfig,
    steps: int,
    start: int = 0,
    rank: int = 0,
    processes: int = 1,
    seed: int = 0,
) -> SampleLoader:
    """Load the batches of a stage from step `start` on, for one of several processes."""
    weight_map = make_weight_map(dataset, stage.data)
    transform = stage.make_transform(dataset.ignore_index)
    augmented = AugmentedDataset(dataset, transform, seed=seed, weight_map=weight_map, class_mix=stage.class_mix)
    sampler = StepBatchSampler(len(dataset), stage.batch, steps, start, stage.accumulate, rank, processes, seed)
    return SampleLoader(
        augmented,
        batch_sampler=sampler,
        num_workers=min(stage.workers, os.cpu_count() or 1),
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # so that loading does not consume the global random numbers
    )


def step_seed(*numbers: int) -> int:
    """Derive the random seed of a micro-batch from the seed of the stage, the step, the micro-batch and the process."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
