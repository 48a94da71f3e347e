"""The CRF search: its score, its path through the grid, resuming from its log, and errors."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atrous.crf import Bilateral, CRFPreset, Gaussian, dense_crf, probabilities_from_labels
from atrous.errors import AtrousError
from atrous.evaluation.confusion import ConfusionMatrix
from atrous.evaluation.crf_search import GRIDS, ParameterGrid, SearchImage, plot_search, tune
from tests.crf.crf_samples import random_image

GRID = ParameterGrid((1, 3, 5), (4, 8, 12, 16), (5, 20, 60))


def search_images(count: int = 3) -> list[SearchImage]:
    """Noisy labels of thresholded images, with a strip that is ignored."""

    def load(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image, rng = random_image(16, 20, seed), np.random.default_rng(seed)
        truth = (image[..., 0] > 128).astype(np.int64)
        noisy = np.where(rng.random(truth.shape) < 0.2, 1 - truth, truth)
        truth[:2] = 255
        return image, probabilities_from_labels(noisy, 3, gt_prob=0.6), truth

    return [SearchImage(f"image-{seed}", lambda seed=seed: load(seed)) for seed in range(count)]  # type: ignore[misc]


def score(w1: float, sigma_alpha: float, sigma_beta: float) -> float:
    total = ConfusionMatrix(3)
    for sample in search_images():
        image, p, truth = sample.load()
        crf = CRFPreset(Gaussian(), Bilateral(w1, sigma_alpha, sigma_beta), iterations=3)
        labels = dense_crf(image, p, crf, output="labels")
        total.update(truth, labels)
    return total.miou


def test_scores_are_those_of_dense_crf() -> None:
    result = tune(search_images(), GRID, iterations=3)
    for trial in [result.best, *result.trials[:3]]:
        assert trial.miou == pytest.approx(score(trial.w1, trial.sigma_alpha, trial.sigma_beta), abs=1e-12)
    assert result.best.miou > result.miou_before
    best = result.best
    assert result.crf == CRFPreset(Gaussian(), Bilateral(best.w1, best.sigma_alpha, best.sigma_beta), iterations=3)


def test_ends_where_no_neighbor_is_better() -> None:
    result = tune(search_images(), GRID, iterations=3)
    found = {(t.w1, t.sigma_alpha, t.sigma_beta): t.miou for t in result.trials}
    at = [
        list(a).index(v)
        for a, v in zip(GRID.axes, (result.best.w1, result.best.sigma_alpha, result.best.sigma_beta), strict=True)
    ]
    for axis in range(3):
        for change in (-1, 1):
            i = at.copy()
            i[axis] += change
            if 0 <= i[axis] < len(GRID.axes[axis]):
                assert found[tuple(a[j] for a, j in zip(GRID.axes, i, strict=True))] <= result.best.miou
    assert len(found) == len(result.trials)


def test_resumes_from_its_log(tmp_path: Path) -> None:
    log = tmp_path / "runs" / "crf.jsonl"
    first = tune(search_images(), GRID, iterations=3, log_path=log)
    lines = log.read_text().splitlines()
    assert len(lines) == 1 + 3 * (len(first.trials) + 1)
    half = "\n".join(lines[: len(lines) // 2]) + "\n" + lines[len(lines) // 2][:20]  # as after a crash
    log.write_text(half)
    seen: list[tuple[int, int]] = []
    assert tune(search_images(), GRID, iterations=3, log_path=log, progress=lambda *at: seen.append(at)) == first
    assert seen
    assert sorted(log.read_text().splitlines()) == sorted(lines)

    def never() -> Any:
        raise AssertionError("everything is known")

    known = [SearchImage(sample.name, never) for sample in search_images()]
    assert tune(known, GRID, iterations=3, log_path=log) == first
    with pytest.raises(AtrousError, match="belongs to a search with"):
        tune(search_images(), GRID, iterations=4, log_path=log)
    log.write_text(json.dumps([1, 2]) + "\n")
    with pytest.raises(AtrousError, match="is not the log of a CRF search"):
        tune(search_images(), GRID, iterations=3, log_path=log)


def test_bad_images(tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match="no image to tune"):
        tune([])
    with pytest.raises(AtrousError, match="two images are named 'image-0'"):
        tune([*search_images(1), *search_images(1)])
    image, p, truth = search_images(1)[0].load()
    with pytest.raises(AtrousError, match="broken: probabilities must sum to 1"):
        tune([SearchImage("broken", lambda: (image, p * 2 / 3, truth))], GRID)
    with pytest.raises(AtrousError, match="broken: the labels: the truth is 20 x 16, the prediction 16 x 20"):
        tune([SearchImage("broken", lambda: (image, p, truth.T))], GRID)
    with pytest.raises(AtrousError, match="broken: the labels: the truth holds 7; classes 0 to 2, or 255"):
        tune([SearchImage("broken", lambda: (image, p, np.full_like(truth, 7)))], GRID)
    with pytest.raises(AtrousError, match="w1 must be positive values in ascending order"):
        ParameterGrid((3, 1), (1,), (1,))


def test_grids_of_the_papers() -> None:
    assert (len(GRIDS["v1"].w1), len(GRIDS["v1"].sigma_alpha), len(GRIDS["v1"].sigma_beta)) == (6, 6, 8)
    assert GRIDS["v2"] == ParameterGrid((3, 4, 5, 6), (30, 40, 50, 60, 70, 80, 90, 100), (3, 4, 5, 6))


def test_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = tune(search_images(1), ParameterGrid((1, 3), (4,), (20, 60)), iterations=1)
    without = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return without(name, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", refuse)
        with pytest.raises(AtrousError, match=r"pip install 'atrous\[train\]'"):
            plot_search(result, tmp_path / "search.png")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    plot_search(result, tmp_path / "search.png")
    assert [file.name for file in tmp_path.iterdir()] == ["search.png"]
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")
