"""Inspect every image and mask of a data set before training on it.

Most first trainings that fail, fail because of masks: two classes stored as 0 and 255, colors instead of indices, a
class that never occurs, a mask of another size. Each is reported here, with the file it is in.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from atrous.data.catalog import DatasetSpec, open_dataset
from atrous.data.dataset import Item, LabelReader, Sample, SegmentationDataset, size_mismatch_message
from atrous.data.unknown_values import describe_unknown_values
from atrous.errors import AtrousError
from atrous.imaging.io import open_image, read_image
from atrous.imaging.labels import Labels, MaskReader, UnknownValueError, count_labels
from atrous.progress import OnProgress

_MODES = {
    "1": "1-bit",
    "L": "gray",
    "LA": "gray with alpha",
    "P": "palette",
    "I;16": "16-bit gray",
    "RGB": "color",
    "RGBA": "color with alpha",
}


@dataclass(frozen=True)
class Problem:
    """A problem of a data set: an error that a training would meet, or a warning."""

    kind: str
    """Machine-readable kind: listing, image, mask, size, leak, no labels (errors), all ignored, duplicate, absent
    class, storage (warnings)."""
    message: str
    severity: Literal["error", "warning"] = "error"
    files: tuple[str, ...] = ()
    """The masks that one message is about, if there are several."""


@dataclass(frozen=True)
class ImageReport:
    """The properties of one image and its mask; None or empty where a file is not readable."""

    split: str
    item: Item
    size: tuple[int, int] | None = None
    """Width and height of the image."""
    mask_format: str = ""
    """The storage format of the mask, such as "PNG palette"."""
    labels: NDArray[np.int64] | None = None
    """The labels that occur in the mask."""
    counts: NDArray[np.int64] | None = None
    """The number of pixels of each of these labels."""
    digest: bytes = b""
    """A hash of the pixels of the image."""
    problems: tuple[Problem, ...] = ()
    unknown: UnknownValueError | None = None
    """The error of a mask with values without a class."""


@dataclass(frozen=True)
class ClassStatistics:
    """Pixel and image counts of the classes over some images."""

    num_images: int
    """The number of images whose mask is readable."""
    pixels: NDArray[np.int64]
    """For each class, its pixels."""
    images: NDArray[np.int64]
    """For each class, the images that contain it."""
    pixels_of_images: NDArray[np.int64]
    """For each class, all pixels, ignored ones too, of the images that contain it."""
    ignored_pixels: int

    @classmethod
    def from_reports(cls, reports: Iterable[ImageReport], num_classes: int) -> ClassStatistics:
        """Add up the reports of images whose mask is readable."""
        pixels, images, pixels_of_images = (np.zeros(num_classes, np.int64) for _ in range(3))
        ignored_pixels = num_images = 0
        for report in reports:
            if report.labels is None or report.counts is None:
                continue
            num_images += 1
            known = report.labels < num_classes
            labels = report.labels[known]
            pixels[labels] += report.counts[known]
            images[labels] += 1
            pixels_of_images[labels] += report.counts.sum()
            ignored_pixels += int(report.counts[~known].sum())
        return cls(num_images, pixels, images, pixels_of_images, ignored_pixels)

    def frequencies(self) -> NDArray[np.float64]:
        """Compute the class frequencies: pixels of a class over all pixels of the images that contain it.

        NaN for classes that do not occur.
        Source: Eigen, Fergus, arXiv 1411.4734, section 6.3.2, as SegNet uses it.
        """
        return np.divide(
            self.pixels, self.pixels_of_images, out=np.full(len(self.pixels), np.nan), where=self.pixels_of_images > 0
        )

    def median_frequency_weights(self) -> NDArray[np.float64]:
        """Compute the loss weights of median frequency balancing: the median frequency over that of each class.

        NaN for classes that do not occur, which the median leaves out.
        """
        frequencies = self.frequencies()
        return np.nanmedian(frequencies) / frequencies if self.pixels.any() else frequencies


@dataclass(frozen=True)
class Inspection:
    """The result of inspecting the splits of a data set."""

    datasets: tuple[SegmentationDataset, ...]
    reports: tuple[ImageReport, ...]
    problems: tuple[Problem, ...]

    def __repr__(self) -> str:
        """Summarize in one line: the name, and the numbers of images, errors and warnings."""
        counts = f"{len(self.reports)} images, {len(self.errors)} errors, {len(self.warnings)} warnings"
        return f"<Inspection of {self.datasets[0].name}: {counts}>"

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.datasets[0].classes

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that make files unusable or results invalid."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The problems that may be intended."""
        return tuple(problem for problem in self.problems if problem.severity == "warning")

    def statistics(self, split: str | None = None) -> ClassStatistics:
        """Compute the class statistics of one split, or of all."""
        reports = (report for report in self.reports if split in (None, report.split))
        return ClassStatistics.from_reports(reports, len(self.classes))

    @property
    def weights_split(self) -> str:
        """The split from which class weights are computed: the first, which is the one to train on."""
        return self.datasets[0].split

    def sizes(self) -> Counter[tuple[int, int]]:
        """Count the images of each width and height."""
        return Counter(report.size for report in self.reports if report.size is not None)

    def mask_formats(self) -> Counter[str]:
        """Count the masks of each storage format."""
        return Counter(report.mask_format for report in self.reports if report.mask_format)

    def to_json(self) -> dict[str, Any]:
        """Convert the inspection to what `atrous inspect --json` prints."""
        first = self.statistics(self.weights_split)
        total = self.statistics()
        weights, frequencies = first.median_frequency_weights(), first.frequencies()
        return {
            "dataset": self.datasets[0].name,
            "splits": {dataset.split: len(dataset) for dataset in self.datasets},
            "ok": not self.errors,
            "problems": [asdict(problem) for problem in self.problems],
            "sizes": [{"width": w, "height": h, "images": n} for (w, h), n in self.sizes().most_common()],
            "masks": dict(self.mask_formats().most_common()),
            "ignored_pixels": total.ignored_pixels,
            "weights_split": self.weights_split,
            "classes": [
                {
                    "label": label,
                    "name": name,
                    "pixels": int(total.pixels[label]),
                    "images": int(total.images[label]),
                    "frequency": _finite(frequencies[label]),
                    "median_frequency_weight": _finite(weights[label]),
                }
                for label, name in enumerate(self.classes)
            ],
        }

    def example_samples(self, count: int = 12) -> list[Sample]:
        """Read samples that together show as many classes as possible, rare classes first; skip unreadable files."""
        readable = [report for report in self.reports if report.labels is not None and not report.problems]
        rarest_first = np.argsort(self.statistics().images, kind="stable")
        chosen: dict[int, ImageReport] = {}
        for label in rarest_first.tolist():
            containing = [
                index for index, report in enumerate(readable) if report.labels is not None and label in report.labels
            ]
            if len(chosen) < count and containing and not chosen.keys() & set(containing):
                middle = containing[len(containing) // 2]
                chosen[middle] = readable[middle]
        for index in np.linspace(0, len(readable) - 1, min(count, len(readable))).astype(int).tolist():
            if len(chosen) < count:
                chosen.setdefault(index, readable[index])
        by_split = {dataset.split: dataset for dataset in self.datasets}
        indices = {
            (dataset.split, item): index for dataset in self.datasets for index, item in enumerate(dataset.items)
        }
        return [by_split[report.split][indices[report.split, report.item]] for _, report in sorted(chosen.items())]


def _finite(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)


def open_splits(spec: str) -> list[SegmentationDataset]:
    """Open the split that a spec names, or else all splits that share no image, "train" first."""
    parsed = DatasetSpec.parse(spec)
    if "split" in parsed.options:
        return [open_dataset(spec)]
    first = open_dataset(spec)
    names = sorted(first.splits or (first.split,), key=lambda name: name != first.split)
    return [first if name == first.split else open_dataset(spec, split=name) for name in names]


def inspect_splits(
    datasets: Sequence[SegmentationDataset], *, on_progress: OnProgress = lambda done, total: None
) -> Inspection:
    """Read every image and mask of some splits of one data set, in threads, and report their problems."""
    jobs = [(dataset, index) for dataset in datasets for index in range(len(dataset))]
    reports = []
    with ThreadPoolExecutor() as pool:
        try:
            for done, report in enumerate(pool.map(lambda job: _inspect_item(*job), jobs), start=1):
                reports.append(report)
                on_progress(done, len(jobs))
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    listing = (Problem("listing", error) for dataset in datasets for error in dataset.listing_errors)
    reading = (problem for report in reports for problem in report.problems)
    values = _find_unknown_values(datasets[0], reports)
    problems = dict.fromkeys(
        [*listing, *reading, *values, *_find_duplicates(reports), *_find_oddities(datasets, reports)]
    )
    return Inspection(tuple(datasets), tuple(reports), tuple(problems))


def _inspect_item(dataset: SegmentationDataset, index: int) -> ImageReport:
    item = dataset.items[index]
    problems: list[Problem] = []
    size, digest, mask_format = None, b"", ""
    labels: Labels | None = None
    unknown: UnknownValueError | None = None
    try:
        image = read_image(item.image)
        size = (image.shape[1], image.shape[0])
        digest = hashlib.blake2b(image.data, digest_size=16, salt=f"{image.shape[1]}".encode()).digest()
    except AtrousError as error:
        problems.append(Problem("image", str(error)))
    if item.mask is not None:
        try:
            mask_format = describe_mask_format(item.mask)
            labels = dataset.labels(index)
        except UnknownValueError as error:
            unknown = error
        except AtrousError as error:
            problems.append(Problem("mask", str(error)))
    if labels is None:
        return ImageReport(
            dataset.split, item, size, mask_format, digest=digest, problems=tuple(problems), unknown=unknown
        )
    if size is not None and labels.shape != size[::-1]:
        problems.append(Problem("size", size_mismatch_message(item, size[::-1], labels.shape)))
    counts = count_labels(labels)
    present = np.flatnonzero(counts)
    if not (present < len(dataset.classes)).any():
        problems.append(Problem("all ignored", f"{item.mask}: all pixels of this mask are ignored.", "warning"))
    return ImageReport(dataset.split, item, size, mask_format, present, counts[present], digest, tuple(problems))


def describe_mask_format(path: Path) -> str:
    """Describe the storage format of a mask: image format and mode, or the suffix of a file that is not an image.

    Raises: `AtrousError` for an image that is not readable.
    """
    if path.suffix.lower() in (".mat", ".json"):
        return path.suffix[1:].lower()
    with open_image(path) as image:
        return f"{image.format} {_MODES.get(image.mode, image.mode)}"


def _find_unknown_values(dataset: SegmentationDataset, reports: Iterable[ImageReport]) -> Iterator[Problem]:
    """Report the values without a class of all masks in one problem."""
    reports = list({report.item: report for report in reports}.values())
    errors = [report.unknown for report in reports if report.unknown is not None]
    if errors:
        labels = (report.labels.tolist() for report in reports if report.labels is not None)
        known = {label for each in labels for label in each} if _stores_labels(dataset.reader) else {0}
        files = tuple(str(report.item.mask) for report in reports if report.unknown is not None)
        message = describe_unknown_values(errors, len(dataset.classes), known)
        yield Problem("mask", message, files=files if len(files) > 1 else ())


def _stores_labels(reader: LabelReader) -> bool:
    """Tell whether the values in the masks are the labels themselves."""
    if not isinstance(reader, MaskReader):
        return False
    return reader.values is None or all(value == label for value, label in reader.values.items())


def _find_duplicates(reports: Iterable[ImageReport]) -> Iterator[Problem]:
    """Find images with the same pixels; across splits they leak from training into validation."""
    first: dict[bytes, ImageReport] = {}
    for report in reports:
        if not report.digest:
            continue
        image, split = report.item.image, report.split
        other = first.setdefault(report.digest, report)
        if other.item.image == image and other.split == split:
            continue  # the same file listed twice, as for hard images
        if other.split != split:
            message = f"{image} in '{split}' is the same image as {other.item.image} in '{other.split}'."
            yield Problem("leak", message)
        else:
            message = f"{image} is the same image as {other.item.image}, both in '{split}'."
            yield Problem("duplicate", message, "warning")


def _find_oddities(datasets: Sequence[SegmentationDataset], reports: Sequence[ImageReport]) -> Iterator[Problem]:
    """Find classes that never occur, and masks that are stored differently from the others."""
    classes = datasets[0].classes
    statistics = ClassStatistics.from_reports(reports, len(classes))
    if not statistics.num_images:
        return
    yield from _find_unlabeled_splits(datasets, reports)
    missing = [classes[label] for label in np.flatnonzero(statistics.pixels == 0)]
    if missing and len(missing) < len(classes):
        shown = ", ".join(missing[:12]) + (f" and {len(missing) - 12} more" if len(missing) > 12 else "")
        hint = " All labeled pixels belong to one class: are the masks stored as 0 and 255?" * (
            len(classes) - len(missing) == 1
        )
        yield Problem("absent class", f"No pixel is labeled {shown}.{hint}", "warning")
    formats = Counter(report.mask_format for report in reports if report.mask_format)
    usual = formats.most_common(1)[0][0]
    for report in reports:
        if report.mask_format and report.mask_format != usual:
            message = f"{report.item.mask} is stored as {report.mask_format}, most masks as {usual}."
            yield Problem("storage", message, "warning")


def _find_unlabeled_splits(
    datasets: Sequence[SegmentationDataset], reports: Sequence[ImageReport]
) -> Iterator[Problem]:
    """Find splits in which every pixel is ignored: nothing is learned from them, and no metric is defined on them."""
    for dataset in datasets:
        own = [report for report in reports if report.split == dataset.split]
        statistics = ClassStatistics.from_reports(own, len(dataset.classes))
        if statistics.num_images and not statistics.pixels.any():
            # Masks of test splits, such as those of Cityscapes, are published without labels.
            severity: Literal["error", "warning"] = "warning" if dataset.split == "test" else "error"
            yield Problem("no labels", _unlabeled_message(dataset, statistics.num_images), severity)


def check_labeled(dataset: SegmentationDataset) -> None:
    """Read masks until one has a labeled pixel, most often the first; one that is not readable ends the check.

    Raises: `AtrousError` if all pixels of all masks are ignored, so that nothing can be learned or measured.
    """
    masks = (dataset.labels(index) for index, item in enumerate(dataset.items) if item.mask is not None)
    try:
        if any((labels < len(dataset.classes)).any() for labels in masks):
            return
    except AtrousError:
        return  # it is reported when its turn comes
    raise AtrousError(_unlabeled_message(dataset, len(dataset)))


def _unlabeled_message(dataset: SegmentationDataset, masks: int) -> str:
    return (
        f"{dataset.name}: all pixels of the {masks} masks of '{dataset.split}' are ignored. Check the values in the "
        "masks, and the classes that they are assigned to."
    )
