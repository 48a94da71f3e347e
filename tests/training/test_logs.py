"""Logs that are cut where a training resumes, and the pictures drawn from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atrous import AtrousError
from atrous.data import open_dataset
from atrous.evaluation.confusion import ConfusionMatrix
from atrous.files import read_csv
from atrous.imaging.io import read_image

pytest.importorskip("tensorboard", reason="needs the extra 'train'")

from atrous.training.logs import METRICS, StageLog, compute_metrics, draw_curves, draw_samples

CLASSES = ("sky", "road")


def log_steps(folder: Path, number: int, start: int, steps: int) -> None:
    log = StageLog(folder, ["one", "two"], number, start, CLASSES)
    for step in range(start + 1, steps + 1):
        log.add_step(step, loss=1 / step, lr=0.1, seconds=1.23456, data_seconds=0.1)
    log.add_evaluation(steps, compute_metrics(ConfusionMatrix(2), CLASSES) | {"miou": 0.5})
    log.close()


def test_rows_after_the_step_to_resume_from_are_dropped(tmp_path: Path) -> None:
    log_steps(tmp_path, 0, 0, 3)
    log_steps(tmp_path, 1, 0, 5)
    log_steps(tmp_path, 1, 2, 4)
    rows = read_csv(tmp_path / "log.csv")
    assert [(row["stage"], int(row["step"])) for row in rows] == [("one", n) for n in (1, 2, 3)] + [
        ("two", n) for n in (1, 2, 3, 4)
    ]
    assert float(rows[2]["loss"]) == 1 / 3  # to the last bit
    assert rows[0]["seconds"] == "1.2346"
    evaluations = read_csv(tmp_path / "evaluations.csv")
    assert [(row["stage"], row["step"]) for row in evaluations] == [("one", "3"), ("two", "4")]
    assert {"iou sky", "iou road", *METRICS} <= evaluations[0].keys()
    draw_curves(tmp_path)
    assert read_image(tmp_path / "curves.png").std() > 0


def test_metrics_of_a_matrix() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 1]]))
    metrics = compute_metrics(matrix, CLASSES)
    assert metrics["iou sky"] == 0.5
    assert metrics["iou road"] == pytest.approx(2 / 3)
    assert metrics["miou"] == pytest.approx((0.5 + 2 / 3) / 2)
    assert metrics["pixel_accuracy"] == 0.75


def test_samples_are_drawn_beside_the_ground_truth(street: str, tmp_path: Path) -> None:
    data = open_dataset(f"{street}?split=val")
    draw_samples(tmp_path / "samples.png", [data[0]], [np.zeros_like(data[0].labels)], data)
    assert read_image(tmp_path / "samples.png").shape[1] >= 2 * data[0].labels.shape[1]
    draw_samples(tmp_path / "none.png", [], [], data)
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"stage,step,loss,lr,seconds,data_seconds\none,1,high,0.1,1,1\n",
        b"stage,step,loss,lr,seconds,data_seconds\none,first,0.5,0.1,1,1\n",
        b"stage,step,loss,lr,seconds,data_seconds\nthree,1,0.5,0.1,1,1\n",
        b"stage,step,loss,lr,seconds,data_seconds\none,1,0.5,0.1,1,1,1\n",
        b"step,loss,lr\n1,0.5,0.1\n",
    ],
)
def test_a_damaged_log_is_refused_when_a_training_resumes(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(AtrousError, match=r"log\.csv: this log is damaged \(.*\)\. Correct it, or move it away"):
        StageLog(tmp_path, ["one", "two"], 0, 2, CLASSES)
    assert (tmp_path / "log.csv").read_bytes() == content
