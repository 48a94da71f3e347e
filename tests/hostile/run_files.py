"""Undamaged files of runs, videos, exported networks and caches, as small as they can be."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from atrous.data.datasets import voc
from atrous.evaluation.confusion import ConfusionMatrix
from atrous.evaluation.evaluate import EvaluationResult
from atrous.evaluation.search_log import SearchLog
from atrous.export import export_model
from atrous.inference.engines.cache import EngineCache
from atrous.training import train
from tests.export.networks import small_network
from tests.hostile.data_files import own_data, tiny_weights
from tests.hostile.files import message_spots, pickle_spots, right_archive_checksums
from tests.hostile.kinds import Kind
from tests.hostile.pictures import PREDICT
from tests.inference.test_video import clip
from tests.training.conftest import small, write_camvid

SETTINGS = {"w2": 3.0, "sigma_gamma": 3.0, "iterations": 1, "prune": 0.0, "ignore_index": 255}
"""The settings of the search of the log."""


def _mp4(folder: Path) -> Path:
    tiny_weights(folder / "own.safetensors")
    return clip(folder / "a.mp4", frames=3, size=(32, 48))


def _avi(folder: Path) -> Path:
    tiny_weights(folder / "own.safetensors")
    video = cv2.VideoWriter(str(folder / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (48, 32))
    for seed in range(3):
        video.write(np.random.default_rng(seed).integers(0, 255, (32, 48, 3), np.uint8))
    video.release()
    return folder / "a.avi"


def _exported(folder: Path, suffix: str) -> Path:
    pytest.importorskip("onnxscript", reason="exporting needs onnxscript")
    if suffix == ".xml":
        pytest.importorskip("openvino", reason="needs openvino")
    export_model(small_network(grid=4), folder / f"a{suffix}")
    return folder / f"a{suffix}"


def _run(folder: Path) -> Path:
    """A run of two steps, which has ended."""
    recipe = small(f"camvid:{write_camvid(folder / 'camvid', 1, 1)}", "steps=2", "batch=1", "checkpoint_every=1")
    train(recipe, folder / "run", accelerator="cpu", devices=1)
    return folder / "run"


def _search_log(folder: Path) -> Path:
    with SearchLog(folder / "search.jsonl", SETTINGS) as log:
        for number, key in enumerate((("a",), ("a", 3.0, 50.0, 3.0), ("a", 4.0, 50.0, 3.0))):
            matrix = ConfusionMatrix(3)
            matrix.update(np.array([[0, 1, 2, number]]), np.array([[0, 1, 1, 2]]))
            log.add(key, matrix)
    return folder / "search.jsonl"


def _evaluation(folder: Path) -> Path:
    result = EvaluationResult.empty(3, settings="the settings")
    labels = np.arange(48, dtype=np.uint8).reshape(6, 8) % 3
    for index in range(3):
        result.add(index, labels, np.roll(labels, index), str(index))
    result.save(folder / "unfinished.npz")
    return folder / "unfinished.npz"


def _cache_entry(folder: Path) -> Path:
    cache = EngineCache()
    cache.folder = folder
    cache.store("entry", bytes(range(256)) * 8)
    return folder / "entry.onnx"


def _checksum(folder: Path) -> Path:
    (folder / "a.pth").write_bytes(b"weights")
    (folder / "a.pth.sha256").write_text(f"{hashlib.sha256(b'weights').hexdigest()}  a.pth\n")
    return folder / "a.pth"


def _listing(folder: Path) -> Path:
    place = folder / "user--name" / "revisions"
    place.mkdir(parents=True)
    content = {"commit": "a" * 40, "files": {"model.safetensors": [1234, "b" * 64]}}
    (place / "main.json").write_text(json.dumps(content, indent=2))
    return folder


def _search(folder: Path) -> Path:
    """A data set, weights, and the folder of a search of the parameters of the CRF."""
    names = ", ".join(voc.CLASSES)
    own_data(folder / "data", f"classes: [{names}]\nmask_ending: _gt\nsplits: {{train: train.txt, val: 1.0}}\n")
    tiny_weights(folder / "own.safetensors")
    words = [each.format(path=folder) for each in _TUNE]
    subprocess.run([sys.executable, "-m", "atrous", *words], check=True, capture_output=True)
    return folder


def _of_run(name: str, reader: str, **options: Any) -> Kind:
    """A file in the folder of a run, which the command resumes."""
    return Kind(_run, reader, ("train", "--resume", "{path}"), damaged=f"run/{name}", every=30, **options)


_INFO = ("info", "{path}")
_TUNE = (
    *("crf", "tune", "--data", "{path}/data?split=train", "-w", "{path}/own.safetensors", "-o", "{path}/out"),
    *("--images", "1", "--workers", "1", "--iterations", "1"),
)

RUN_FILES = {
    "mp4": Kind(_mp4, "video", PREDICT, every=30),
    "avi": Kind(_avi, "video", PREDICT, every=30),
    "onnx": Kind(partial(_exported, suffix=".onnx"), "segmenter", _INFO, spots=message_spots, every=4),
    "xml": Kind(partial(_exported, suffix=".xml"), "segmenter", _INFO, text=True, every=4, some=100),
    "bin of xml": Kind(partial(_exported, suffix=".xml"), "segmenter", _INFO, damaged=".bin", every=4, some=100),
    "pt2": Kind(partial(_exported, suffix=".pt2"), "", _INFO),
    "checkpoint": _of_run("checkpoint.pt", "checkpoint", some=100),
    "checkpoint with right checksums": _of_run(
        "checkpoint.pt", "checkpoint", spots=pickle_spots, wrap=right_archive_checksums, some=100
    ),
    "recipe of a run": _of_run("recipe.yaml", "resumable", text=True, some=60),
    "environment of a run": _of_run("environment.json", "resumable", text=True, some=60),
    "log.csv": _of_run("log.csv", "logs", text=True),
    "evaluations.csv": _of_run("evaluations.csv", "logs", text=True),
    "log of a search": Kind(_search_log, "search_log", text=True),
    "log of a search, continued": Kind(_search, "", _TUNE, damaged="out/search.jsonl", text=True, some=10, many=300),
    "unfinished evaluation": Kind(_evaluation, "evaluation"),
    "cached engine": Kind(_cache_entry, "cached"),
    "remembered checksum": Kind(_checksum, "checksum", damaged="a.pth.sha256", text=True),
    "listing of the hub": Kind(_listing, "hub_listing", damaged="user--name/revisions/main.json", text=True),
}
"""The kinds of files of runs, videos, exported networks and caches that are damaged."""
