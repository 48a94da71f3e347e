"""Trainings of a comparison: each in a process of its own, resumed where a run of the script was stopped.

Used by `heads.py` and `findings.py`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atrous import Segmenter
from atrous.data.catalog import open_dataset
from atrous.evaluation import evaluate
from atrous.files import read_csv, writing

RESULTS = Path(__file__).parent / "results"
STOPPED = 128 + signal.SIGTERM
"""The exit status of a training that wrote its checkpoint after SIGTERM."""


class OutOfTimeError(Exception):
    """The time of this run of the script is over; the next one continues."""


@dataclass(frozen=True)
class Trainings:
    """A folder of trainings by one recipe, on one data set, until a time."""

    folder: Path
    data: str
    recipe: str = "camvid_baseline"
    shared: tuple[str, ...] = ()
    end: float = float("inf")
    """The time, as of `time.monotonic`, at which a training is stopped."""

    def train(self, name: str, overrides: Sequence[str]) -> Path:
        """Train, or continue a training, unless it is finished; return its folder.

        Raises: `OutOfTimeError`, after the checkpoint was written.
        """
        out = self.folder / name
        if self.finished(name):
            return out
        if time.monotonic() > self.end:
            raise OutOfTimeError
        words = [self.recipe, "--data", self.data, "--out", str(out), *self.shared, *overrides]
        resumed = ["--resume"] if (out / "recipe.yaml").is_file() else []
        print(f"{name}: {'continues' if resumed else 'begins'}", flush=True)
        command = [sys.executable, "-m", "atrous", "train", *words, "--no-check", *resumed]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        alarm = threading.Timer(min(self.end - time.monotonic(), 1e6), process.terminate)
        alarm.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            alarm.cancel()
        code = os.waitstatus_to_exitcode(status)
        if code not in (0, STOPPED):
            raise SystemExit(f"{name}: the training ended with {code}")
        _keep_largest(out / "peak_memory.json", usage.ru_maxrss << 10)
        if code == STOPPED:
            raise OutOfTimeError
        return out

    def finished(self, name: str) -> bool:
        """Tell whether the training is in the folder, and finished."""
        return (self.folder / name / "last.safetensors").is_file()

    def describe(self, name: str) -> dict[str, float]:
        """Read seconds per step, their median, and the peak memory in MiB of a training."""
        out = self.folder / name
        seconds = [float(row["seconds"]) for row in read_csv(out / "log.csv")]
        return {
            "seconds_per_step": float(np.median(seconds)),
            "training_mib": json.loads((out / "peak_memory.json").read_text()) / 2**20,
        }

    def evaluate(self, name: str, key: str = "plain", **options: Any) -> dict[str, float]:
        """Evaluate a finished training on the split val, once; `options` are those of `evaluate_weights`."""
        path = self.folder / name / f"evaluation_{key}.json"
        if not path.is_file():
            metrics = evaluate_weights(self.folder / name / "last.safetensors", self.data, **options)
            with writing(path) as temporary:
                temporary.write_text(json.dumps(metrics, indent=2))
        return dict(json.loads(path.read_text()))


def parse_arguments(description: str | None, steps: int, what: str, **options: str) -> argparse.Namespace:
    """Read the command line of a comparison, with further `options` and their help; `end` is when it stops."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="camvid:FOLDER")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--only", default="", help=f"{what} whose name contains this")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of the tables; what is there is not trained again"
    )
    for name, text in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", default="", help=text)
    arguments = parser.parse_args()
    arguments.end = time.monotonic() + 60 * arguments.minutes
    return arguments


def evaluate_weights(
    weights: Path, data: str, *, output_stride: int | None = None, tta: str = "none", crf: str | None = None
) -> dict[str, float]:
    """Evaluate weights on the split val: metrics in percent, `trimap_5` within 5 pixels of boundaries among them."""
    segmenter = Segmenter.load(weights, tta=tta)
    if output_stride is not None:
        segmenter.set_output_stride(output_stride)
    dataset = open_dataset(f"{data}?split=val")
    result = evaluate(segmenter, dataset, crf=crf)
    assert result.trimap is not None
    figures = {name.lower().replace(" ", "_"): value for name, value in result.metrics().items()}
    figures["trimap_5"] = result.trimap.within(5).miou
    figures |= {f"iou {name}": value for name, value in zip(dataset.classes, result.confusion.iou, strict=True)}
    return {name: 100 * float(value) for name, value in figures.items()}


class Rows:
    """A table of one row for each evaluated training, in a CSV file; the rows of earlier runs are kept."""

    def __init__(self, path: Path, keys: Sequence[str]) -> None:
        """Read the file, if there is one; `keys` are the columns that say which training a row is of."""
        self.path, self.keys = path, tuple(keys)
        self.rows: list[dict[str, Any]] = [
            {name: value if name in self.keys else _parse_number(value) for name, value in row.items()}
            for row in read_csv(path)
        ]

    def find(self, *keys: object) -> dict[str, Any] | None:
        """Find the row with these keys, in the order of the columns."""
        return next((row for row in self.rows if [row[name] for name in self.keys] == [*map(str, keys)]), None)

    def add(self, keys: Sequence[object], figures: Mapping[str, float]) -> dict[str, Any]:
        """Add a row, or replace the one with these keys; write the file, print the row, and return it."""
        row = dict(zip(self.keys, map(str, keys), strict=True)) | {
            name: round(value, 3) for name, value in figures.items()
        }
        if earlier := self.find(*keys):
            self.rows[self.rows.index(earlier)] = row
        else:
            self.rows.append(row)
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with writing(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)
        print(", ".join(map(str, keys)), f"mIoU {figures['miou']:.2f}", flush=True)
        return row


def mean_and_spread(values: Sequence[float]) -> str:
    """Format the mean, and half of the distance from the lowest to the highest value, such as `71.2 ± 0.4`."""
    if not values:
        return "-"
    half = f" ± {(max(values) - min(values)) / 2:.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{half}"


def _parse_number(text: str) -> float:
    return int(text) if text.isdigit() else float(text)


def _keep_largest(path: Path, number: int) -> None:
    before = json.loads(path.read_text()) if path.is_file() else 0
    path.write_text(json.dumps(max(number, before)))
