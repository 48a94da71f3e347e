"""A look at every image and mask of a data set before anything is trained on it.

Most first trainings that fail, fail on masks: 0 and 255 for two classes, colors for indices, a class that never
occurs, a mask of another size. Each is found here, with the file it is in.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atrous.data.catalog import DatasetSpec, open_dataset
from atrous.data.dataset import Item, Sample, SegmentationDataset, size_mismatch_message
from atrous.errors import AtrousError
from atrous.imaging.io import open_image, read_image
from atrous.imaging.labels import Labels, count_labels

_MODES = {
    "1": "1-bit",
    "L": "gray",
    "LA": "gray with alpha",
    "P": "palette",
    "I;16": "16-bit gray",
    "RGB": "color",
    "RGBA": "color with alpha",
}
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong (`serious`), or that should be known."""

    kind: str
    message: str
    serious: bool = True


@dataclass(frozen=True)
class Look:
    """What one image and its mask turned out to be; of what could not be read there is only the fault."""

    split: str
    item: Item
    size: tuple[int, int] | None = None
    """Width and height of the image."""
    stored: str = ""
    """How the mask is stored, such as "PNG palette"."""
    labels: NDArray[np.int64] | None = None
    counts: NDArray[np.int64] | None = None
    """The labels that occur, and the pixels each has."""
    digest: bytes = b""
    """Of the pixels of the image."""
    faults: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Totals:
    """Of some images together: `pixels` per class, the `images` that hold it, and all pixels of those images."""

    images: int
    pixels: NDArray[np.int64]
    holding: NDArray[np.int64]
    held: NDArray[np.int64]
    ignored: int

    @classmethod
    def of(cls, looks: Iterable[Look], num_classes: int) -> Totals:
        """Add up the looks whose mask could be read."""
        pixels, holding, held = (np.zeros(num_classes, np.int64) for _ in range(3))
        ignored = images = 0
        for look in looks:
            if look.labels is None or look.counts is None:
                continue
            images += 1
            known = look.labels < num_classes
            labels = look.labels[known]
            pixels[labels] += look.counts[known]
            holding[labels] += 1
            held[labels] += look.counts.sum()
            ignored += int(look.counts[~known].sum())
        return cls(images, pixels, holding, held, ignored)

    def frequencies(self) -> NDArray[np.float64]:
        """Pixels of a class over all pixels, ignored ones too, of the images that hold it; NaN where there are none.

        Source: Eigen, Fergus, arXiv 1411.4734, section 6.3.2, as SegNet uses it.
        """
        return np.divide(self.pixels, self.held, out=np.full(len(self.pixels), np.nan), where=self.held > 0)

    def median_frequency_weights(self) -> NDArray[np.float64]:
        """The median of the frequencies of the classes that occur, over the frequency of each; NaN for the others."""
        frequencies = self.frequencies()
        return np.nanmedian(frequencies) / frequencies if self.pixels.any() else frequencies


@dataclass(frozen=True)
class Inspection:
    """All that was found in the splits of a data set."""

    datasets: tuple[SegmentationDataset, ...]
    looks: tuple[Look, ...]
    findings: tuple[Finding, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.datasets[0].classes

    @property
    def serious(self) -> tuple[Finding, ...]:
        """What is wrong, without what should merely be known."""
        return tuple(finding for finding in self.findings if finding.serious)

    def totals(self, split: str | None = None) -> Totals:
        """Of one split, or of all."""
        return Totals.of((look for look in self.looks if split in (None, look.split)), len(self.classes))

    @property
    def weighed(self) -> str:
        """The split whose frequencies the weights come from: the first, which is what one trains on."""
        return self.datasets[0].split

    def sizes(self) -> Counter[tuple[int, int]]:
        """How many images have which width and height."""
        return Counter(look.size for look in self.looks if look.size is not None)

    def storage(self) -> Counter[str]:
        """How many masks are stored how."""
        return Counter(look.stored for look in self.looks if look.stored)

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        first = self.totals(self.weighed)
        total = self.totals()
        weights, frequencies = first.median_frequency_weights(), first.frequencies()
        return {
            "dataset": self.datasets[0].name,
            "splits": {dataset.split: len(dataset) for dataset in self.datasets},
            "ok": not self.serious,
            "findings": [asdict(finding) for finding in self.findings],
            "sizes": [{"width": w, "height": h, "images": n} for (w, h), n in self.sizes().most_common()],
            "masks": dict(self.storage().most_common()),
            "ignored_pixels": total.ignored,
            "weights_from": self.weighed,
            "classes": [
                {
                    "label": label,
                    "name": name,
                    "pixels": int(total.pixels[label]),
                    "images": int(total.holding[label]),
                    "frequency": _number(frequencies[label]),
                    "median_frequency_weight": _number(weights[label]),
                }
                for label, name in enumerate(self.classes)
            ],
        }

    def examples(self, count: int = 12) -> list[Sample]:
        """Samples that show as many classes as can be, the rarest first; what cannot be read is left out."""
        readable = [look for look in self.looks if look.labels is not None and not look.faults]
        order = np.argsort(self.totals().holding, kind="stable")
        picked: dict[int, Look] = {}
        for label in order.tolist():
            holding = [
                number for number, look in enumerate(readable) if look.labels is not None and label in look.labels
            ]
            if len(picked) < count and holding and not picked.keys() & set(holding):
                picked[holding[len(holding) // 2]] = readable[holding[len(holding) // 2]]
        for number in np.linspace(0, len(readable) - 1, min(count, len(readable))).astype(int).tolist():
            if len(picked) < count:
                picked.setdefault(number, readable[number])
        by_split = {dataset.split: dataset for dataset in self.datasets}
        places = {(dataset.split, item): index for dataset in self.datasets for index, item in enumerate(dataset.items)}
        return [by_split[look.split][places[look.split, look.item]] for _, look in sorted(picked.items())]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)


def open_splits(spec: str) -> list[SegmentationDataset]:
    """The data sets of a spec: of the split it names, or else of all splits that share no image, "train" first."""
    parsed = DatasetSpec.parse(spec)
    if "split" in parsed.options:
        return [open_dataset(spec)]
    first = open_dataset(spec)
    names = sorted(first.splits or (first.split,), key=lambda name: name != first.split)
    return [first if name == first.split else open_dataset(spec, split=name) for name in names]


def inspect(
    datasets: Sequence[SegmentationDataset], *, on_progress: OnProgress = lambda done, total: None
) -> Inspection:
    """Open every image and mask of some splits of one data set, in threads, and say what they are."""
    jobs = [(dataset, index) for dataset in datasets for index in range(len(dataset))]
    looks = []
    with ThreadPoolExecutor() as pool:
        try:
            for done, look in enumerate(pool.map(lambda job: _look(*job), jobs), start=1):
                looks.append(look)
                on_progress(done, len(jobs))
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    listed = (Finding("listing", fault) for dataset in datasets for fault in dataset.faults)
    read = (fault for look in looks for fault in look.faults)
    findings = dict.fromkeys([*listed, *read, *_duplicates(looks), *_emptiness(datasets, looks)])
    return Inspection(tuple(datasets), tuple(looks), tuple(findings))


def _look(dataset: SegmentationDataset, index: int) -> Look:
    item = dataset.items[index]
    faults: list[Finding] = []
    size, digest, stored = None, b"", ""
    labels: Labels | None = None
    try:
        image = read_image(item.image)
        size = (image.shape[1], image.shape[0])
        digest = hashlib.blake2b(image.data, digest_size=16, salt=f"{image.shape[1]}".encode()).digest()
    except AtrousError as error:
        faults.append(Finding("image", str(error)))
    if item.mask is not None:
        try:
            stored = describe_mask_format(item.mask)
            labels = dataset.labels(index)
        except AtrousError as error:
            faults.append(Finding("mask", str(error)))
    if labels is None:
        return Look(dataset.split, item, size, stored, digest=digest, faults=tuple(faults))
    if size is not None and labels.shape != size[::-1]:
        faults.append(Finding("size", size_mismatch_message(item, size[::-1], labels.shape)))
    counts = count_labels(labels)
    present = np.flatnonzero(counts)
    if not (present < len(dataset.classes)).any():
        faults.append(Finding("nothing", f"{item.mask}: no pixel has a class, all are ignored.", serious=False))
    return Look(dataset.split, item, size, stored, present, counts[present], digest, tuple(faults))


def describe_mask_format(path: Path) -> str:
    """How a mask is stored: the format and Pillow's mode, or the suffix of what is no picture.

    Raises: `AtrousError` for a picture that cannot be opened.
    """
    if path.suffix.lower() in (".mat", ".json"):
        return path.suffix[1:].lower()
    with open_image(path) as image:
        return f"{image.format} {_MODES.get(image.mode, image.mode)}"


def _duplicates(looks: Iterable[Look]) -> Iterator[Finding]:
    """Images that are there twice, pixel by pixel; across splits, what is learned would be what is judged."""
    first: dict[bytes, Look] = {}
    for look in looks:
        if not look.digest:
            continue
        other = first.setdefault(look.digest, look)
        if other.item.image == look.item.image and other.split == look.split:
            continue  # listed twice, as bootstrapping does
        if other.split != look.split:
            yield Finding(
                "leak",
                f"{look.item.image} in '{look.split}' is the same picture as {other.item.image} in '{other.split}'.",
            )
        else:
            yield Finding(
                "twice",
                f"{look.item.image} is the same picture as {other.item.image}, both in '{look.split}'.",
                serious=False,
            )


def _emptiness(datasets: Sequence[SegmentationDataset], looks: Sequence[Look]) -> Iterator[Finding]:
    """Classes never seen, and masks that are stored unlike the others."""
    classes = datasets[0].classes
    total = Totals.of(looks, len(classes))
    if not total.images:
        return
    missing = [classes[label] for label in np.flatnonzero(total.pixels == 0)]
    if missing:
        shown = ", ".join(missing[:12]) + (f" and {len(missing) - 12} more" if len(missing) > 12 else "")
        only = " All that is not ignored is one class: are the masks stored as 0 and 255?" * (
            len(classes) - len(missing) == 1
        )
        yield Finding("never seen", f"No pixel is of {shown}.{only}", serious=False)
    storage = Counter(look.stored for look in looks if look.stored)
    usual = storage.most_common(1)[0][0]
    for look in looks:
        if look.stored and look.stored != usual:
            yield Finding("storage", f"{look.item.mask} is stored as {look.stored}, most as {usual}.", serious=False)
