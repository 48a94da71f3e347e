"""Find w1, sigma_alpha and sigma_beta of the appearance term by a coarse-to-fine grid search, as DeepLab v1 and v2 did.

    result = tune(samples, RANGES["v2"], journal="runs/crf.jsonl")
    plot_search(result, "runs/crf.png")

The score of a point is the mIoU of the one confusion matrix of all images. Images are worked on at the same time, one
thread each. What is found goes to a JSON-lines journal at once, from which a search that was stopped goes on.

Source: arXiv:1412.7062 section 5.1 and arXiv:1606.00915 section 4.1: w2 = 3 and sigma_gamma = 3 are kept, 10 updates.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from atrous.crf.dense_crf import DenseCRF, InferenceOptions
from atrous.crf.kernels import Bilateral, Gaussian
from atrous.crf.validation import as_numpy, checked_image, checked_probabilities
from atrous.errors import AtrousError
from atrous.evaluation.confusion import ConfusionMatrix
from atrous.evaluation.journal import Journal
from atrous.files import writing

Point = tuple[float, float, float]  # w1, sigma_alpha, sigma_beta


@dataclass(frozen=True)
class Sample:
    """An image by name, and how to get at it when its turn comes.

    Shape: `load()` returns the image (H, W, 3) uint8, probabilities (K, H, W) and the true labels (H, W), integers.
    """

    name: str
    load: Callable[[], tuple[Any, Any, Any]]


@dataclass(frozen=True)
class Ranges:
    """The values to search, each in rising order."""

    w1: Sequence[float]
    sigma_alpha: Sequence[float]
    sigma_beta: Sequence[float]

    def __post_init__(self) -> None:
        for name, values in asdict(self).items():
            if not values or list(values) != sorted(set(values)) or values[0] <= 0:
                raise AtrousError(f"{name} must be positive values in rising order, found {values}")

    @property
    def axes(self) -> tuple[Sequence[float], ...]:
        return self.w1, self.sigma_alpha, self.sigma_beta


RANGES = {
    "v1": Ranges(tuple(range(5, 11)), tuple(range(50, 101, 10)), tuple(range(3, 11))),
    "v2": Ranges(tuple(range(3, 7)), tuple(range(30, 101, 10)), tuple(range(3, 7))),
}


@dataclass(frozen=True)
class Trial:
    """A point of the grid and its mIoU over all images, in 0..1."""

    w1: float
    sigma_alpha: float
    sigma_beta: float
    miou: float


@dataclass(frozen=True)
class TuneResult:
    """Every trial in the order of the search; `before` is the mIoU of the probabilities as they came."""

    trials: list[Trial]
    before: float
    gaussian: Gaussian = field(default_factory=Gaussian)

    @property
    def best(self) -> Trial:
        """The trial of the highest mIoU, the first of equals."""
        return max(self.trials, key=lambda trial: trial.miou)

    @property
    def bilateral(self) -> Bilateral:
        """The term to hand to `dense_crf`."""
        return Bilateral(self.best.w1, self.best.sigma_alpha, self.best.sigma_beta)


def tune(
    samples: Sequence[Sample],
    ranges: Ranges = RANGES["v2"],
    *,
    gaussian: Gaussian | None = None,
    iterations: int = 10,
    prune: float = 0.0,
    ignore_index: int = 255,
    journal: str | Path | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TuneResult:
    """Search the grid of `ranges`: every other value of each axis first, then the neighbors of the best at ever
    smaller steps, until the best of them all has no better neighbor.

    `journal`: where results are appended, and looked up by the name of the image. `workers`: images at a time, by
    default one per core. `progress(done, all)`: called as lattices of the present round are finished with.

    Raises: `AtrousError` without samples, with two of one name, with a journal that belongs to another search, or
    when a sample cannot be used (its name is in the message).
    """
    gaussian = gaussian or Gaussian()
    if not samples:
        raise AtrousError("there is no image to tune the CRF on; give at least one sample")
    names = [sample.name for sample in samples]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise AtrousError(f"two samples are named {twice[0]!r}; results are kept by name, make them differ")
    settings = {
        "w2": gaussian.w, "sigma_gamma": gaussian.sigma_gamma, "iterations": iterations, "prune": prune,
        "ignore_index": ignore_index,
    }  # fmt: skip
    how = InferenceOptions(iterations, prune)
    with Journal(journal, settings, ignore_index) as known:
        search = _Search(samples, gaussian, how, ignore_index, known, workers or os.cpu_count() or 1, progress)
        best, step = (0, 0, 0), [max(1, (len(axis) - 1) // 2) for axis in ranges.axes]
        coarse = [sorted({*range(0, len(a), s), len(a) - 1}) for a, s in zip(ranges.axes, step, strict=True)]
        todo: Iterable[tuple[int, ...]] = product(*coarse)
        trials: dict[tuple[int, ...], Trial] = {}
        while True:
            fresh = [where for where in todo if where not in trials]
            points = [_point(ranges, where) for where in fresh]
            trials.update(zip(fresh, search.evaluate(points), strict=True))
            winner = max(trials, key=lambda where: trials[where].miou)
            if winner == best and not fresh:
                if step == [1, 1, 1]:
                    break
                step = [max(1, s // 2) for s in step]
            best = winner  # type: ignore[assignment]
            todo = product(
                *(
                    sorted({max(0, i - s), i, min(len(axis) - 1, i + s)})
                    for axis, i, s in zip(ranges.axes, best, step, strict=True)
                )
            )
        return TuneResult(list(trials.values()), search.before(), gaussian)


def _point(ranges: Ranges, where: tuple[int, ...]) -> Point:
    i, j, k = where
    return float(ranges.w1[i]), float(ranges.sigma_alpha[j]), float(ranges.sigma_beta[k])


class _Search:
    """Evaluates points of the grid over all samples, and remembers what the journal knows."""

    def __init__(
        self, samples: Sequence[Sample], gaussian: Gaussian, how: InferenceOptions, ignore_index: int, journal: Journal,
        workers: int, progress: Callable[[int, int], None] | None,
    ) -> None:  # fmt: skip
        self.samples, self.gaussian, self.how, self.ignore_index = samples, gaussian, how, ignore_index
        self.journal, self.workers, self.progress = journal, workers, progress

    def evaluate(self, points: Sequence[Point]) -> list[Trial]:
        """The trials of points, after filling in what the journal lacks: one lattice for all weights w1."""
        jobs = []
        for sample in self.samples:
            for sigmas in dict.fromkeys(point[1:] for point in points):
                weights = [point[0] for point in points if point[1:] == sigmas]
                missing = [w for w in weights if (sample.name, w, *sigmas) not in self.journal.matrices]
                if missing:
                    jobs.append((sample, sigmas, missing))
        with ThreadPoolExecutor(self.workers) as pool:
            pending = [pool.submit(self._work, *job) for job in jobs]
            try:
                for done, future in enumerate(as_completed(pending), 1):
                    future.result()
                    if self.progress is not None:
                        self.progress(done, len(jobs))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [Trial(*point, self._total(point).miou) for point in points]

    def before(self) -> float:
        """The mIoU without a CRF."""
        return self._total(()).miou

    def _total(self, point: tuple[float, ...]) -> ConfusionMatrix:
        found = [self.journal.matrices[(sample.name, *point)] for sample in self.samples]
        if len(sizes := {each.num_classes for each in found}) != 1:
            raise AtrousError(f"the samples differ in the number of classes: {sorted(sizes)}")
        return sum(found[1:], found[0])

    def _work(self, sample: Sample, sigmas: tuple[float, float], weights: Sequence[float]) -> None:
        from atrous.crf.numba_backend.threads import limited_to

        try:
            image, given, truth = sample.load()
            image, maps, truth = checked_image(image), checked_probabilities(given), as_numpy("truth", truth)
            if (sample.name,) not in self.journal.matrices:
                self._keep((sample.name,), truth, maps.argmax(0), len(maps))
            with limited_to(1):
                crf = DenseCRF(image, self.gaussian, Bilateral(1, *sigmas))
                for w in weights:
                    labels = crf.labels(maps, self.how, weights=(self.gaussian.w, w))
                    self._keep((sample.name, w, *sigmas), truth, labels, len(maps))
        except AtrousError as error:
            raise AtrousError(f"{sample.name}: {error}") from error

    def _keep(self, key: tuple[Any, ...], truth: Any, labels: Any, classes: int) -> None:
        matrix = ConfusionMatrix(classes, ignore_index=self.ignore_index)
        matrix.update(truth, labels, name="the labels")
        self.journal.add(key, matrix)


def plot_search(result: TuneResult, path: str | Path) -> None:
    """Draw the mIoU of every trial over sigma_alpha and sigma_beta, a panel for each w1, to an image file.

    Raises: `AtrousError` where matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise AtrousError("the plot needs matplotlib: pip install 'atrous[train]'") from error
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    weights = sorted({trial.w1 for trial in result.trials})
    figure = Figure(figsize=(3.2 * len(weights) + 0.8, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(weights), sharex=True, sharey=True, squeeze=False)[0]
    low, high = (100 * pick(trial.miou for trial in result.trials) for pick in (min, max))
    for axes, w1 in zip(panels, weights, strict=True):
        here = [trial for trial in result.trials if trial.w1 == w1]
        drawn = axes.scatter(
            [trial.sigma_alpha for trial in here], [trial.sigma_beta for trial in here],
            c=[100 * trial.miou for trial in here], vmin=low, vmax=high, cmap=matplotlib.colormaps["viridis"], s=90,
        )  # fmt: skip
        if result.best in here:
            axes.scatter(
                [result.best.sigma_alpha], [result.best.sigma_beta], s=240, facecolors="none", edgecolors="red"
            )
        axes.set(title=f"w1 = {w1:g}", xlabel="sigma_alpha, pixels")
    panels[0].set_ylabel("sigma_beta, levels")
    figure.colorbar(drawn, ax=list(panels), label=f"mIoU, % (before: {100 * result.before:.2f})")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with writing(target) as temporary:
        figure.savefig(temporary, dpi=120, format=target.suffix.lstrip(".") or "png")
