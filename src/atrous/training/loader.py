"""What a training sees in which step: a function of the step alone, whoever loads it and wherever it was resumed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from atrous.data.catalog import open_dataset
from atrous.data.dataset import Item, LabelReader, SegmentationDataset
from atrous.data.loading import AugmentedDataset, Batch, collate, duplicate_hard_images
from atrous.errors import AtrousError
from atrous.imaging.labels import Labels
from atrous.training.config import DataConfig
from atrous.training.stage import Stage

Key = tuple[int, int]
"""An epoch and the index of a sample in it."""


@dataclass(frozen=True)
class Readers:
    """The reader of each item's own data set."""

    owners: dict[Item, LabelReader]

    def __call__(self, item: Item) -> Labels:
        return self.owners[item](item)


def join(datasets: Sequence[SegmentationDataset]) -> SegmentationDataset:
    """Data sets of the same classes as one.

    Raises: `AtrousError` where the classes differ.
    """
    first, *others = datasets
    if not others:
        return first
    for other in others:
        if (other.classes, other.ignore_index) != (first.classes, first.ignore_index):
            raise AtrousError(
                f"{first.name} and {other.name} cannot be trained on together: their classes are not the same."
            )
    return replace(
        first,
        name="+".join(dataset.name for dataset in datasets),
        items=tuple(item for dataset in datasets for item in dataset.items),
        reader=Readers({item: dataset.reader for dataset in datasets for item in dataset.items}),
        listing_errors=tuple(error for dataset in datasets for error in dataset.listing_errors),
    )


def open_training_data(entry: DataConfig) -> SegmentationDataset:
    """The data sets of `train`, joined, with hard images listed again."""
    dataset = join([open_dataset(spec) for spec in entry.train])
    if not dataset.items:
        raise AtrousError(f"{dataset.name}: the split '{dataset.split}' holds no images.")
    return duplicate_hard_images(dataset, entry.bootstrap, times=entry.times) if entry.bootstrap else dataset


@dataclass(frozen=True)
class StepBatchSampler(Sampler[list[Key]]):
    """The keys of each portion of each step, for one process of several.

    Epoch after epoch the `images` are shuffled, and steps of `batch` are cut from the row of all epochs: a step may
    hold the end of one and the beginning of the next, and all are full.
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
                f"A batch of {self.batch} cannot be shared out evenly among {self.processes} processes in "
                f"{self.accumulate} portions each: choose a multiple of {self.accumulate * self.processes}."
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
            yield from (own[portion * size : (portion + 1) * size] for portion in range(self.accumulate))


def make_loader(
    dataset: SegmentationDataset,
    stage: Stage,
    *,
    steps: int,
    start: int = 0,
    rank: int = 0,
    processes: int = 1,
    seed: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """Batches of a stage from step `start` on."""
    augmented = AugmentedDataset(dataset, stage.make_transform(dataset.ignore_index), seed=seed)
    portions = StepBatchSampler(len(dataset), stage.batch, steps, start, stage.accumulate, rank, processes, seed)
    return DataLoader(
        augmented,  # type: ignore[arg-type]
        batch_sampler=portions,
        num_workers=min(stage.workers, os.cpu_count() or 1),
        collate_fn=collate,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # so that the loader draws nothing from the network's random numbers
    )
