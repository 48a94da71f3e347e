from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from atrous import AtrousError
from atrous.evaluation import ConfusionMatrix


def loop(truth: np.ndarray, prediction: np.ndarray, classes: int) -> dict[str, float]:
    """Compute all metrics by loops over pixels and classes, straight from their definitions."""
    hits, true, predicted = [0] * classes, [0] * classes, [0] * classes
    for t, p in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if t == 255:
            continue
        true[t] += 1
        predicted[p] += 1
        hits[t] += t == p
    ious, accuracies, weighted = [], [], 0.0
    for k in range(classes):
        union = true[k] + predicted[k] - hits[k]
        if union:
            ious.append(hits[k] / union)
            weighted += true[k] * hits[k] / union
        if true[k]:
            accuracies.append(hits[k] / true[k])
    total = sum(true)
    nan = float("nan")
    return {
        "miou": sum(ious) / len(ious) if ious else nan,
        "pixel_accuracy": sum(hits) / total if total else nan,
        "mean_accuracy": sum(accuracies) / len(accuracies) if accuracies else nan,
        "frequency_weighted_iou": weighted / total if total else nan,
    }


@given(data=st.data(), classes=st.integers(1, 6), height=st.integers(1, 9), width=st.integers(1, 9))
def test_metrics_equal_a_loop(data: st.DataObject, classes: int, height: int, width: int) -> None:
    labels = [*range(classes), 255]
    truth = data.draw(arrays(np.uint8, (height, width), elements=st.sampled_from(labels)))
    prediction = data.draw(arrays(np.uint8, (height, width), elements=st.integers(0, classes - 1)))
    matrix = ConfusionMatrix(classes)
    matrix.update(truth, prediction)
    for name, expected in loop(truth, prediction, classes).items():
        assert getattr(matrix, name) == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_absent_classes_are_left_out_and_classes_only_predicted_count_0() -> None:
    matrix = ConfusionMatrix(4)
    matrix.update(np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1]))
    np.testing.assert_array_equal(matrix.iou, [0.5, 1, 0, np.nan])
    assert matrix.miou == pytest.approx(0.5)
    assert matrix.mean_accuracy == pytest.approx(0.75)


def test_miou_is_not_the_mean_over_images() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([0] * 99 + [1]), np.array([0] * 100))
    matrix.update(np.array([1] * 100), np.array([1] * 100))
    assert matrix.miou == pytest.approx((99 / 100 + 100 / 101) / 2)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.int64])
def test_all_integer_types_and_tensors(dtype: type) -> None:
    random = np.random.default_rng(0)
    truth, prediction = random.integers(0, 5, (2, 30, 40)).astype(dtype)
    arrays_, tensors = ConfusionMatrix(5), ConfusionMatrix(5)
    arrays_.update(truth, prediction)
    tensors.update(torch.from_numpy(truth.astype(np.int64)), torch.from_numpy(prediction.astype(np.int64))[:])
    assert arrays_ == tensors
    tensors = ConfusionMatrix(5)
    tensors._count_on_device(torch.from_numpy(truth.astype(np.int64)), torch.from_numpy(prediction.astype(int)), "x")
    assert arrays_ == tensors


def test_pickled_parts_add_up() -> None:
    random = np.random.default_rng(0)
    truth, prediction = random.integers(0, 3, (2, 8, 50))
    whole = ConfusionMatrix(3)
    whole.update(truth, prediction)
    parts = []
    for rows in (slice(0, 3), slice(3, 8)):
        part = ConfusionMatrix(3)
        part.update(truth[rows], prediction[rows])
        parts.append(pickle.loads(pickle.dumps(part)))
    assert parts[0] + parts[1] == whole
    with pytest.raises(AtrousError, match="different classes"):
        whole + ConfusionMatrix(4)


def _count_a_part(rank: int, store: str, out: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([rank] * (rank + 1)), np.array([rank] * (rank + 1)))
    matrix.all_reduce()
    np.save(f"{out}{rank}.npy", matrix.counts)
    torch.distributed.destroy_process_group()


def test_all_processes_of_a_group_have_the_sum(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_count_a_part, (str(tmp_path / "store"), str(tmp_path / "out")), nprocs=2)
    for rank in range(2):
        np.testing.assert_array_equal(np.load(tmp_path / f"out{rank}.npy"), [[1, 0], [0, 2]])


def test_counts_beyond_32_bits() -> None:
    matrix = ConfusionMatrix(2)
    matrix.counts[1, 1] = 2**40
    matrix.update(np.array([1, 0]), np.array([1, 1]))
    assert matrix.counts[1, 1] == 2**40 + 1
    assert math.isclose(matrix.pixel_accuracy, 1 - 1 / (2**40 + 2))


def test_a_value_outside_the_classes_is_named_and_nothing_is_counted() -> None:
    matrix = ConfusionMatrix(3)
    with pytest.raises(AtrousError, match=r"a\.png: the truth holds 7, 9; classes 0 to 2, or 255 in the truth"):
        matrix.update(np.array([0, 7, 9, 255]), np.zeros(4, int), name="a.png")
    with pytest.raises(AtrousError, match="the prediction holds -1"):
        matrix.update(np.array([0]), np.array([-1]))
    with pytest.raises(AtrousError, match="truth is 2 x 3, the prediction 3 x 2"):
        matrix.update(np.zeros((2, 3), int), np.zeros((3, 2), int))
    with pytest.raises(AtrousError, match="integers, not float64"):
        matrix.update(np.zeros(2), np.zeros(2))
    assert matrix.counts.sum() == 0


def test_cityscapes_own_evaluator_agrees(shared_data: Path, tmp_path: Path) -> None:
    """Its val frame against its truth, perturbed: shifted, with a class exchanged and noise."""
    evaluator = pytest.importorskip(
        "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling",
        reason="needs cityscapesscripts, of the dev extra",
    )
    from cityscapesscripts.helpers.labels import labels as official
    from PIL import Image

    from atrous.data.datasets.cityscapes import LABEL_IDS

    path = next((shared_data / "cityscapes").glob("gtFine/val/*/*_labelIds.png"))
    ids = np.asarray(Image.open(path))
    perturbed = np.roll(ids, (5, 9), (0, 1))
    perturbed[perturbed == 26] = 27
    noisy = np.random.default_rng(0).random(ids.shape) < 0.02
    perturbed[noisy] = np.random.default_rng(1).choice(LABEL_IDS, int(noisy.sum()))
    perturbed[~np.isin(perturbed, LABEL_IDS)] = 7  # predictions are classes that are evaluated

    Image.fromarray(perturbed).save(tmp_path / "prediction.png")
    evaluator.args.evalLabels = [label.id for label in official if label.id >= 0]
    evaluator.args.evalInstLevelScore = evaluator.args.evalPixelAccuracy = False
    theirs = evaluator.generateMatrix(evaluator.args)
    evaluator.evaluatePair(str(tmp_path / "prediction.png"), str(path), theirs, {}, {}, evaluator.args)
    expected = [evaluator.getIouScoreForLabel(label, theirs, evaluator.args) for label in LABEL_IDS]

    table = np.full(256, 255)
    table[list(LABEL_IDS)] = range(19)
    matrix = ConfusionMatrix(19)
    matrix.update(table[ids], table[perturbed])
    np.testing.assert_allclose(matrix.iou, expected, rtol=0, atol=1e-9)
    assert matrix.miou == pytest.approx(np.nanmean(expected), abs=1e-9)
