"""Coarse-to-fine grid search of w1, sigma_alpha and sigma_beta of the bilateral term, as in DeepLab v1 and v2.

    result = tune(images, GRIDS["v2"], log_path="runs/crf.jsonl")
    dense_crf(image, probabilities, crf=result.crf)
    plot_search(result, "runs/crf.png")

The score of a grid point is the mIoU of the one confusion matrix of all images. Several images are processed at a time,
one thread each. Results are appended to a JSON-lines log at once, from which a search that was stopped resumes.

Source: arXiv:1412.7062 section 5.1 and arXiv:1606.00915 section 4.1: w2 = 3 and sigma_gamma = 3 are kept, 10 updates.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from atrous.crf import Bilateral, CRFPreset, DenseCRF, Gaussian, MeanFieldOptions
from atrous.crf.validation import as_numpy, checked_image, checked_probabilities
from atrous.errors import AtrousError
from atrous.evaluation.confusion import ConfusionMatrix
from atrous.evaluation.search_log import SearchLog
from atrous.files import writing
from atrous.marks import Mark

Point = tuple[float, float, float]  # w1, sigma_alpha, sigma_beta
Index = tuple[int, ...]  # the same as positions in the grid

MARK = Mark("crf-tune")
"""The mark in the plot of a search."""


@dataclass(frozen=True)
class SearchImage:
    """An image with probabilities and ground truth, loaded when its turn comes.

    Results in the log count for the same `name` and `version`, which tells the files from others of that name.

    Shape: `load()` returns the image (H, W, 3) uint8, probabilities (K, H, W) and the true labels (H, W), integers.
    """

    name: str
    load: Callable[[], tuple[Any, Any, Any]]
    version: str = ""

    @property
    def key(self) -> str:
        """The name in the log."""
        return f"{self.name} {self.version}" if self.version else self.name


@dataclass(frozen=True)
class ParameterGrid:
    """The values to search, each in ascending order.

    Raises: `AtrousError` for values that are not positive and ascending.
    """

    w1: Sequence[float]
    sigma_alpha: Sequence[float]
    sigma_beta: Sequence[float]

    def __post_init__(self) -> None:
        for name, values in asdict(self).items():
            if not values or list(values) != sorted(set(values)) or values[0] <= 0:
                raise AtrousError(f"{name} must be positive values in ascending order, found {values}")

    @property
    def axes(self) -> tuple[Sequence[float], ...]:
        return self.w1, self.sigma_alpha, self.sigma_beta

    def point(self, index: Index) -> Point:
        """Return w1, sigma_alpha and sigma_beta at a position of the grid."""
        i, j, k = index
        return float(self.w1[i]), float(self.sigma_alpha[j]), float(self.sigma_beta[k])

    def neighborhood(self, index: Index, steps: Sequence[int]) -> Iterable[Index]:
        """List the positions at a distance of at most one step from `index` on every axis, itself included."""
        return product(
            *(
                sorted({max(0, i - step), i, min(len(axis) - 1, i + step)})
                for axis, i, step in zip(self.axes, index, steps, strict=True)
            )
        )


GRIDS = {
    "v1": ParameterGrid(tuple(range(5, 11)), tuple(range(50, 101, 10)), tuple(range(3, 11))),
    "v2": ParameterGrid(tuple(range(3, 7)), tuple(range(30, 101, 10)), tuple(range(3, 7))),
}


@dataclass(frozen=True)
class Trial:
    """A point of the grid and its mIoU over all images, in 0..1."""

    w1: float
    sigma_alpha: float
    sigma_beta: float
    miou: float


@dataclass(frozen=True)
class SearchResult:
    """Every trial in the order of the search; `miou_before` is the mIoU without a CRF."""

    trials: list[Trial]
    miou_before: float
    gaussian: Gaussian
    iterations: int

    def __repr__(self) -> str:
        """Summarize in one line: the number of trials, the mIoU before, and the best trial."""
        return f"<SearchResult of {len(self.trials)} trials: mIoU before {self.miou_before:.4f}, best {self.best}>"

    @property
    def best(self) -> Trial:
        """The trial of the highest mIoU, the first of equals."""
        return max(self.trials, key=lambda trial: trial.miou)

    @property
    def crf(self) -> CRFPreset:
        """The CRF of the best trial, for `dense_crf`."""
        bilateral = Bilateral(self.best.w1, self.best.sigma_alpha, self.best.sigma_beta)
        return CRFPreset(self.gaussian, bilateral, iterations=self.iterations)


def tune(
    images: Sequence[SearchImage],
    grid: ParameterGrid = GRIDS["v2"],
    *,
    gaussian: Gaussian | None = None,
    iterations: int = 10,
    prune: float = 0.0,
    ignore_index: int = 255,
    log_path: str | Path | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SearchResult:
    """Search a grid for the highest mIoU: first every other value of each axis, then neighbors of the best trial.

    The step between neighbors is halved until the best trial has no better neighbor at a step of one.

    `log_path`: the file of a `SearchLog`. `workers`: images at a time, by default one per core. `progress(done, all)`:
    called after each lattice of the current round.

    Raises: `AtrousError` without images, for two images of one name, for a log that belongs to another search, or for
    an invalid image (its name is in the message).
    """
    gaussian = gaussian or Gaussian()
    _check_names(images)
    settings = {
        "w2": gaussian.w, "sigma_gamma": gaussian.sigma_gamma, "iterations": iterations, "prune": prune,
        "ignore_index": ignore_index,
    }  # fmt: skip
    options = MeanFieldOptions(iterations, prune)
    with SearchLog(log_path, settings, ignore_index) as log:
        search = _Search(images, gaussian, options, ignore_index, log, workers or os.cpu_count() or 1, progress)
        best: Index = (0, 0, 0)
        steps = [max(1, (len(axis) - 1) // 2) for axis in grid.axes]
        candidates: Iterable[Index] = product(
            *(sorted({*range(0, len(axis), step), len(axis) - 1}) for axis, step in zip(grid.axes, steps, strict=True))
        )
        trials: dict[Index, Trial] = {}
        while True:
            untried = [index for index in candidates if index not in trials]
            trials.update(zip(untried, search.evaluate([grid.point(index) for index in untried]), strict=True))
            winner = max(trials, key=lambda index: trials[index].miou)
            if winner == best and not untried:
                if steps == [1, 1, 1]:
                    break
                steps = [max(1, step // 2) for step in steps]
            best = winner
            candidates = grid.neighborhood(best, steps)
        return SearchResult(list(trials.values()), search.miou_before(), gaussian, iterations)


def _check_names(images: Sequence[SearchImage]) -> None:
    if not images:
        raise AtrousError("there is no image to tune the CRF on; give at least one")
    names = [image.name for image in images]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise AtrousError(f"two images are named {twice[0]!r}; the log stores results by name, so names must differ")


class _Search:
    """Evaluation of grid points over all images; results in the log are not computed again."""

    def __init__(
        self, images: Sequence[SearchImage], gaussian: Gaussian, options: MeanFieldOptions, ignore_index: int,
        log: SearchLog, workers: int, progress: Callable[[int, int], None] | None,
    ) -> None:  # fmt: skip
        self.images, self.gaussian, self.options, self.ignore_index = images, gaussian, options, ignore_index
        self.log, self.workers, self.progress = log, workers, progress

    def evaluate(self, points: Sequence[Point]) -> list[Trial]:
        """Compute the trials of grid points; one lattice serves all weights w1."""
        jobs = []
        for image in self.images:
            for sigmas in dict.fromkeys(point[1:] for point in points):
                weights = [point[0] for point in points if point[1:] == sigmas]
                missing = [w for w in weights if (image.key, w, *sigmas) not in self.log.matrices]
                if missing:
                    jobs.append((image, sigmas, missing))
        with ThreadPoolExecutor(self.workers) as pool:
            pending = [pool.submit(self._evaluate_image, *job) for job in jobs]
            try:
                for done, future in enumerate(as_completed(pending), 1):
                    future.result()
                    if self.progress is not None:
                        self.progress(done, len(jobs))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [Trial(*point, self._total(point).miou) for point in points]

    def miou_before(self) -> float:
        """Compute the mIoU without a CRF."""
        return self._total(()).miou

    def _total(self, point: tuple[float, ...]) -> ConfusionMatrix:
        matrices = [self.log.matrices[(image.key, *point)] for image in self.images]
        if len(sizes := {matrix.num_classes for matrix in matrices}) != 1:
            raise AtrousError(f"the images differ in the number of classes: {sorted(sizes)}")
        return sum(matrices[1:], matrices[0])

    def _evaluate_image(self, image: SearchImage, sigmas: tuple[float, float], weights: Sequence[float]) -> None:
        from atrous.crf.numba_backend.threads import limit_threads

        try:
            pixels, probabilities, truth = image.load()
            pixels, truth = checked_image(pixels), as_numpy("truth", truth)
            probabilities = checked_probabilities(probabilities)
            if (image.key,) not in self.log.matrices:
                self._record((image.key,), truth, probabilities.argmax(0), len(probabilities))
            with limit_threads(1):
                crf = DenseCRF(pixels, self.gaussian, Bilateral(1, *sigmas))
                for w in weights:
                    labels = crf.labels(probabilities, self.options, weights=(self.gaussian.w, w))
                    self._record((image.key, w, *sigmas), truth, labels, len(probabilities))
        except AtrousError as error:
            raise AtrousError(f"{image.name}: {error}") from error

    def _record(self, key: tuple[Any, ...], truth: Any, labels: Any, num_classes: int) -> None:
        matrix = ConfusionMatrix(num_classes, ignore_index=self.ignore_index)
        matrix.update(truth, labels, name="the labels")
        self.log.add(key, matrix)


def plot_search(result: SearchResult, path: str | Path) -> None:
    """Draw the mIoU of every trial over sigma_alpha and sigma_beta, a panel for each w1, to an image file.

    Raises: `AtrousError` if matplotlib is not installed.
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
        shown = [trial for trial in result.trials if trial.w1 == w1]
        points = axes.scatter(
            [trial.sigma_alpha for trial in shown], [trial.sigma_beta for trial in shown],
            c=[100 * trial.miou for trial in shown], vmin=low, vmax=high, cmap=matplotlib.colormaps["viridis"], s=90,
        )  # fmt: skip
        if result.best in shown:
            axes.scatter(
                [result.best.sigma_alpha], [result.best.sigma_beta], s=240, facecolors="none", edgecolors="red"
            )
        axes.set(title=f"w1 = {w1:g}", xlabel="sigma_alpha, pixels")
    panels[0].set_ylabel("sigma_beta, levels")
    figure.colorbar(points, ax=list(panels), label=f"mIoU, % (before: {100 * result.miou_before:.2f})")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with writing(target) as temporary:
        format_ = target.suffix.lstrip(".") or "png"
        metadata = {"Software": str(MARK)} if format_ == "png" else None
        figure.savefig(temporary, dpi=120, format=format_, metadata=metadata)
