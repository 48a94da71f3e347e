"""Refine saved class probabilities of images by the fully connected CRF, and write labels and overlays."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from atrous.errors import AtrousError
from atrous.files import overlay_path, writing
from atrous.inference.jobs import DEFAULT_FORMATS, ImageSource, plan_targets, result_mark
from atrous.marks import Mark

if TYPE_CHECKING:
    from atrous.crf import CRFPreset
    from atrous.imaging.probabilities import ClassProbabilities

COMMAND = "crf"
"""The command in the marks of results."""
SUFFIXES = (".npz", ".npy")
"""The suffixes of files of probabilities."""


class RefineJob(NamedTuple):
    """An image, its probabilities, and the label map that is written; with `keep`, refined probabilities as well."""

    source: ImageSource
    probabilities: ImageSource
    target: Path
    keep: bool = False

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The label map, the overlays after and before refinement and, if wanted, the probabilities."""
        before = self.target.with_name(f"{self.target.stem}_before_overlay.png")
        kept = (self.target.with_suffix(".npy"),) if self.keep else ()
        return self.target, overlay_path(self.target), before, *kept


@dataclass(frozen=True)
class RefineOptions:
    """The CRF, and the names and colors of classes where they are not those of the files of probabilities."""

    crf: CRFPreset
    iterations: int | None = None
    prune: float = 0.0
    classes: tuple[str, ...] | None = None
    colors: tuple[tuple[int, int, int], ...] | None = None

    def mark(self, job: RefineJob) -> Mark:
        """Make the mark of a result from these options and the state of the image and its probabilities."""
        second = result_mark(job.probabilities, None).details
        return Mark(COMMAND, result_mark(job.source, [repr(self), dict(second)]).details)


def pair_jobs(
    images: Mapping[ImageSource, PurePath], probabilities: Mapping[ImageSource, PurePath], *, keep: bool
) -> tuple[list[RefineJob], list[AtrousError]]:
    """Pair images with the files of probabilities that `atrous predict --probabilities` names after them.

    Returns: the jobs, and an error for each image without probabilities.
    """
    by_name = {path.as_posix(): source for source, path in probabilities.items()}
    jobs, errors = [], []
    for source, target, *_ in plan_targets(images, Path(), formats=(*DEFAULT_FORMATS, "npz")):
        names = [target.with_suffix(suffix).as_posix() for suffix in SUFFIXES]
        match = next((by_name[name] for name in names if name in by_name), None)
        if match is None:
            errors.append(AtrousError(f"{source}: no probabilities of this image; expected {' or '.join(names)}."))
        else:
            jobs.append(RefineJob(source, match, target, keep))
    return jobs, errors


def refine_image(job: RefineJob, options: RefineOptions, mark: Mark) -> dict[str, Any]:
    """Refine the probabilities of an image, write the results, and describe them.

    Raises: `AtrousError` for files that cannot be read, do not fit together, or cannot be written.
    """
    from atrous.crf import dense_crf
    from atrous.imaging.archives import write_npy
    from atrous.imaging.io import read_image, save_image
    from atrous.imaging.labels import label_dtype
    from atrous.inference.segmentation import Segmentation

    pixels = read_image(job.source if isinstance(job.source, Path) else job.source.open())
    maps, classes, colors = _read_classes(job.probabilities, options)
    refined = dense_crf(pixels, maps, options.crf, iterations=options.iterations, prune=options.prune)
    before, after = (
        Segmentation(pixels, each.argmax(0).astype(label_dtype(len(maps), 0)), classes, colors)
        for each in (maps, refined)
    )
    labels, overlay = after.save(job.target, overwrite=True, mark=mark)
    save_image(before.overlay(), job.outputs[2], mark)
    if job.keep:
        with writing(job.outputs[3]) as temporary:
            write_npy(temporary, refined)
            mark.append_to(temporary)
    changed = float((before.labels != after.labels).mean())
    return {"image": str(job.source), "labels": str(labels), "overlay": str(overlay), "changed": round(changed, 4)}


def _read_classes(source: ImageSource, options: RefineOptions) -> ClassProbabilities:
    """Read probabilities, with the classes of the file, or those of the options."""
    from atrous.imaging.labels import voc_color_map
    from atrous.imaging.probabilities import ClassProbabilities, read_array, read_probabilities

    with _as_file(source) as path:
        if path.suffix.lower() == ".npz":
            stored = read_probabilities(path)
        else:
            maps = read_array(path)
            names = tuple(f"class {index}" for index in range(len(maps)))
            stored = ClassProbabilities(maps, names, voc_color_map(len(maps)))
    if options.classes is None or options.colors is None:
        return stored
    if len(options.classes) != len(stored.maps):
        raise AtrousError(
            f"The probabilities have {len(stored.maps)} classes, the weights {len(options.classes)}: pass with -w the "
            "weights that computed the probabilities, or leave out -w."
        )
    return ClassProbabilities(stored.maps, options.classes, options.colors)


@contextmanager
def _as_file(source: ImageSource) -> Iterator[Path]:
    """Yield the path of a file; what is elsewhere is fetched to a temporary one."""
    if isinstance(source, Path):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="atrous-") as folder:
        path = Path(folder) / PurePath(str(source)).name
        path.write_bytes(source.open().read())
        yield path
