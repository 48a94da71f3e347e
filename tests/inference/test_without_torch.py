"""Everything but the network itself works in a process in which torch cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous import Segmenter
from atrous.inference.engines.cache import cache_folder
from tests.inference.networks import waves

FORBID_TORCH = """
import sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ImportError("torch is forbidden here")

sys.meta_path.insert(0, Forbidden())
"""

SCRIPT = """
from pathlib import Path

import numpy as np

from atrous.imaging.io import read_image
from atrous.inference.memory import allocate_labels, is_out_of_memory
from atrous.inference.prediction import CoarsePrediction
from atrous.inference.preprocess import preprocess
from atrous.inference.segmentation import Segmentation
from atrous.inference.tta import tta_preset
from atrous.weights import find_weights, list_weights
from atrous.weights.header import digest_file, read_header

image, weights, target = sys.argv[1:]
assert weights in list_weights()
path = find_weights(weights)
header = read_header(path)
assert digest_file(path) == header.digest
card = header.card
pixels = read_image(image)
planes, content_size = preprocess(pixels, card.preprocessing)
scores = np.random.default_rng(0).standard_normal((len(card.classes), 9, 11), np.float32)  # as an engine would
prediction = CoarsePrediction(
    (scores,), planes.shape[1:], content_size, pixels.shape[:2], align_corners=card.align_corners
)
assert tta_preset("none").num_views == 1
assert is_out_of_memory(MemoryError())
labels = prediction.labels(allocate_labels(pixels.shape[:2], len(card.classes)))
Segmentation(pixels, labels, card.classes, card.colors).save(target)
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("size", [(60, 90), (545, 721)])  # the latter is not resized
def test_one_view(size: tuple[int, int], tmp_path: Path) -> None:
    Image.fromarray(waves(*size)).save(tmp_path / "a.png")
    weights = "deeplab_v3_plus.efficientnet_lite0.camvid"
    arguments = [sys.executable, "-c", FORBID_TORCH + SCRIPT, str(tmp_path / "a.png"), weights, str(tmp_path / "b.png")]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert np.asarray(Image.open(tmp_path / "b.png")).max() > 3
    assert (tmp_path / "b_overlay.png").is_file()


@pytest.mark.parametrize("kind", ["cached", "exported"])
def test_the_command_line(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of the package with a converted network in the cache, and an ONNX file."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "cache"))
    weights = "deeplab_v3_plus.efficientnet_lite0.camvid"
    segmenter = Segmenter.load(weights, device="cpu")
    if kind == "exported":
        (entry,) = cache_folder().glob("*.onnx")
        weights = str(entry.rename(tmp_path / "exported.onnx"))
    Image.fromarray(waves(60, 90)).save(tmp_path / "a.png")
    script = FORBID_TORCH + "from atrous.cli.main import main; main()"
    arguments = ["predict", str(tmp_path / "a.png"), "-w", weights, "-o", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    labels = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    np.testing.assert_array_equal(labels, segmenter(tmp_path / "a.png").labels)
