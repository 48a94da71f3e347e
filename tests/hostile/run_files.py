"""Undamaged files of runs, videos, exported networks and caches, as small as they can be."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from atrous.evaluation.confusion import ConfusionMatrix
from atrous.evaluation.evaluate import EvaluationResult
from atrous.evaluation.search_log import SearchLog
from atrous.export import export_model
from atrous.inference.engines.cache import EngineCache
from atrous.training import train
from tests.export.networks import small_network
from tests.hostile.data_files import tiny_weights
from tests.hostile.files import message_spots, pickle_spots, right_archive_checksums
from tests.hostile.kinds import Kind
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


_INFO = ("info", "{path}")

RUN_FILES = {
    "mp4": Kind(_mp4, "video"),
    "avi": Kind(_avi, "video"),
    "onnx": Kind(partial(_exported, suffix=".onnx"), "segmenter", _INFO, spots=message_spots, every=4),
    "xml": Kind(partial(_exported, suffix=".xml"), "segmenter", _INFO, text=True, every=4, some=100),
    "bin of xml": Kind(partial(_exported, suffix=".xml"), "segmenter", _INFO, damaged=".bin", every=4, some=100),
    "pt2": Kind(partial(_exported, suffix=".pt2"), "", _INFO),
    "checkpoint": Kind(_run, "checkpoint", damaged="run/checkpoint.pt", some=100),
    "checkpoint with right checksums": Kind(
        _run, "checkpoint", damaged="run/checkpoint.pt", spots=pickle_spots, wrap=right_archive_checksums, some=100
    ),
    "recipe of a run": Kind(_run, "resumable", damaged="run/recipe.yaml", text=True, some=60),
    "environment of a run": Kind(_run, "resumable", damaged="run/environment.json", text=True, some=60),
    "log.csv": Kind(_run, "logs", damaged="run/log.csv", text=True),
    "evaluations.csv": Kind(_run, "logs", damaged="run/evaluations.csv", text=True),
    "log of a search": Kind(_search_log, "search_log", text=True),
    "unfinished evaluation": Kind(_evaluation, "evaluation"),
    "cached engine": Kind(_cache_entry, "cached"),
    "remembered checksum": Kind(_checksum, "checksum", damaged="a.pth.sha256", text=True),
    "listing of the hub": Kind(_listing, "hub_listing", damaged="user--name/revisions/main.json", text=True),
}
"""The kinds of files of runs, videos, exported networks and caches that are damaged."""
