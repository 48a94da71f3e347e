"""From data sets to batches: join data sets, augment samples, duplicate hard images, collate."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from atrous.data.class_mix import mix_classes
from atrous.data.dataset import InstancesReader, Item, Sample, SegmentationDataset
from atrous.data.datasets.voc import HARD_CLASSES
from atrous.data.instances import border_weights
from atrous.data.transforms import Pair, Transform, as_transform
from atrous.errors import AtrousError, did_you_mean
from atrous.imaging.labels import describe_classes

SECONDS_AFTER_SIGTERM = 60
"""How long a loading worker lives after SIGTERM, if its process does not end it."""

WeightMap: TypeAlias = Callable[[Item], NDArray[np.float32]]
"""A function that computes the weights of the pixels of an item in the loss, (H, W); picklable."""


@dataclass(frozen=True)
class BorderWeights:
    """Compute the weights of the pixels between touching objects, see `instances.border_weights`."""

    instances: InstancesReader
    w0: float = 10.0
    sigma: float = 5.0

    def __call__(self, item: Item) -> NDArray[np.float32]:
        return border_weights(self.instances(item), self.w0, self.sigma)


class AugmentedDataset:
    """A data set whose samples are augmented, differently in every epoch.

    A `weight_map` is augmented like the labels, by the same random numbers; ignored pixels get the weight 0. With the
    probability `class_mix`, half of the classes of another augmented sample are pasted onto a sample, see
    `class_mix.mix_classes`; there is no weight map then.

    An item is asked for by its index, in the epoch that `set_epoch` set, or by `(epoch, index)`. The generator of a
    sample is seeded with `(seed, epoch, index)`: the result does not depend on the number of workers or their order.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        transform: Transform | Callable[..., Any],
        *,
        seed: int = 0,
        weight_map: WeightMap | None = None,
        class_mix: float = 0.0,
    ) -> None:
        self.dataset = dataset
        self.weight_map = weight_map
        self.class_mix = class_mix
        self.transform = as_transform(transform)
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of items that are asked for by index; also reaches persistent workers of a `DataLoader`."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (int(self._epoch), key)
        if not -len(self) <= index < len(self):
            raise IndexError(key)
        if get_worker_info() is not None:
            cv2.setNumThreads(0)  # the workers already run in parallel; threads inside each would only slow them down
        index %= len(self)
        sample = self.dataset[index]
        seeds = (self.seed, epoch, index)
        image, labels = self.transform(sample.image, sample.labels, np.random.default_rng(seeds))
        if self.class_mix:
            image, labels = self._mixed((image, labels), np.random.default_rng((*seeds, 1)))
        if self.weight_map is None:
            return replace(sample, image=image, labels=labels)
        weight_map: Any = self.weight_map(self.dataset.items[index])
        _, weights = self.transform(sample.image, weight_map, np.random.default_rng(seeds))
        valid = labels != self.dataset.ignore_index  # the border is filled with the ignore index, as in labels
        return replace(sample, image=image, labels=labels, weights=np.where(valid, weights, 0).astype(np.float32))

    def _mixed(self, target: Pair, rng: np.random.Generator) -> Pair:
        """Paste classes of another sample onto this one, with the probability of that."""
        if rng.random() >= self.class_mix:
            return target
        other = self.dataset[int(rng.integers(len(self)))]
        source = self.transform(other.image, other.labels, rng)
        return mix_classes(target, source, rng, ignore_index=self.dataset.ignore_index)


@dataclass(frozen=True)
class _JoinedReader:
    """Read each item with the reader of its own data set."""

    owners: dict[Item, Callable[[Item], Any]]

    def __call__(self, item: Item) -> Any:
        return self.owners[item](item)


def join_datasets(datasets: Sequence[SegmentationDataset]) -> SegmentationDataset:
    """Join data sets of the same classes into one.

    Raises: `AtrousError` if the classes differ.
    """
    first, *others = datasets
    if not others:
        return first
    for other in others:
        if (other.classes, other.ignore_index) != (first.classes, first.ignore_index):
            raise AtrousError(
                f"{first.name} and {other.name} cannot be joined: their classes or ignore indices differ."
            )
    instances = {item: dataset.instances for dataset in datasets if dataset.instances for item in dataset.items}
    return replace(
        first,
        name="+".join(dict.fromkeys(dataset.name for dataset in datasets)),
        split="+".join(dict.fromkeys(dataset.split for dataset in datasets)),
        items=tuple(item for dataset in datasets for item in dataset.items),
        instances=_JoinedReader(instances) if all(dataset.instances for dataset in datasets) else None,
        reader=_JoinedReader({item: dataset.reader for dataset in datasets for item in dataset.items}),
        listing_errors=tuple(error for dataset in datasets for error in dataset.listing_errors),
    )


def duplicate_hard_images(
    dataset: SegmentationDataset, classes: Sequence[str] = HARD_CLASSES, *, times: int = 2
) -> SegmentationDataset:
    """List the images that hold any of the hard `classes` `times` times instead of once.

    Reads every mask once, in threads.

    Source: Chen et al., arXiv 1706.05587, section 4.3 ("bootstrapping"), which does not tell the number of duplicates.
    Raises: `AtrousError` for a class that the data set does not have.
    """
    for name in classes:
        if name not in dataset.classes:
            raise AtrousError(
                f"{dataset.name} has no class '{name}'.{did_you_mean(name, dataset.classes)} Its classes are "
                f"{describe_classes(dataset.classes)}."
            )
    hard_labels = [dataset.classes.index(name) for name in classes]
    with ThreadPoolExecutor() as pool:
        is_hard = pool.map(lambda index: bool(np.isin(dataset.labels(index), hard_labels).any()), range(len(dataset)))
        duplicates = [index for index, hard in enumerate(is_hard) if hard]
    return dataset.select([*range(len(dataset)), *duplicates * (times - 1)])


@dataclass  # not frozen: Lightning moves and converts the fields of a copy
class Batch:
    """A batch of samples of one size.

    Shape: `images` (N, 3, H, W) uint8; `labels` (N, H, W) int64; N names; `weights` (N, H, W) float32, if any.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    weights: Tensor | None = None

    def pin_memory(self) -> Batch:
        """Pin the tensors, as a `DataLoader` with `pin_memory=True` asks for."""
        weights = None if self.weights is None else self.weights.pin_memory()
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory(), weights=weights)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples into a batch: the `collate_fn` of a `DataLoader`.

    Pixels stay bytes; they are normalized with the mean and std of the model's card.
    Raises: `AtrousError` for samples of different sizes.
    """
    sizes = {sample.labels.shape for sample in samples}
    if len(sizes) > 1:
        names = ", ".join(f"{sample.name} {sample.labels.shape}" for sample in samples[:4])
        raise AtrousError(
            f"The samples of a batch have different sizes: {names}. Crop, pad or resize them to one size, or use a "
            "batch size of 1."
        )
    images = np.stack([sample.image for sample in samples]).transpose(0, 3, 1, 2)
    labels = np.stack([sample.labels for sample in samples]).astype(np.int64)
    maps = [sample.weights for sample in samples if sample.weights is not None]
    weights = torch.from_numpy(np.stack(maps)) if len(maps) == len(samples) else None
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    return Batch(pixels, torch.from_numpy(labels), tuple(sample.name for sample in samples), weights)


class SampleLoader(DataLoader[Any]):
    """A `DataLoader` that raises an `AtrousError` of a worker as the worker raised it.

    torch's own puts the traceback of the worker into the message. Options are those of a `DataLoader`; without a
    `collate_fn`, samples are not changed. Workers go on for a while after a signal to stop; close the iterator to end
    them at once.
    """

    def __init__(self, dataset: Any, *, collate_fn: Callable[[Any], Any] | None = None, **options: Any) -> None:
        guarded: Any = _Guarded(dataset, collate_fn or _identity)
        super().__init__(guarded, collate_fn=_identity, worker_init_fn=_outlive_signals, **options)

    def __iter__(self) -> Generator[Any]:  # type: ignore[override]  # torch asks for a private class
        for result in super().__iter__():
            if isinstance(result, AtrousError):
                raise result
            yield result


@dataclass(frozen=True)
class _Guarded:
    """Read and collate samples of a data set; an `AtrousError` is returned, not raised."""

    dataset: Any
    collate: Callable[[Any], Any]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Any) -> Any:
        return self._guard(lambda: self.dataset[key])

    def __getitems__(self, keys: Sequence[Any]) -> Any:
        return self._guard(lambda: [self.dataset[key] for key in keys])

    def _guard(self, read: Callable[[], Any]) -> Any:
        try:
            return self.collate(read())
        except AtrousError as error:
            return error


def _identity(value: Any) -> Any:
    return value


def _outlive_signals(worker: int) -> None:
    """Let a worker live on after Ctrl-C and, for some time, SIGTERM.

    A terminal, systemd and clusters send these to all processes of a run. The training then finishes its step and
    writes a checkpoint, which it could not if its workers died first.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(SECONDS_AFTER_SIGTERM))


@contextmanager
def dead_worker_error() -> Iterator[None]:
    """Turn torch's error about a loading worker that was killed into an `AtrousError`."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise AtrousError(
            f"A process that loads images was killed ({error}). Usually memory ran out: close other programs or set "
            "workers=0, and continue with --resume."
        ) from error
