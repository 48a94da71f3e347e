"""Class probabilities as files: 16 bits, with the classes, and refused where they are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atrous import AtrousError
from atrous.imaging.probabilities import ClassProbabilities, encode_probabilities, read_probabilities
from atrous.marks import Mark, read_mark


@pytest.fixture
def probabilities() -> ClassProbabilities:
    maps = np.random.default_rng(0).dirichlet([0.3] * 3, (20, 30)).transpose(2, 0, 1).astype(np.float32)
    return ClassProbabilities(maps, ("road", "sky", "Bäume"), ((1, 2, 3), (4, 5, 6), (7, 8, 255)))


def test_they_are_read_as_they_were_saved(probabilities: ClassProbabilities, tmp_path: Path) -> None:
    path, mark = tmp_path / "a.npz", Mark("predict", {"state": "1f"})
    path.write_bytes(encode_probabilities(probabilities, mark))
    assert read_mark(path) == mark
    with np.load(path) as arrays:
        assert arrays["probabilities"].dtype == np.float16
    maps, classes, colors = read_probabilities(path)
    np.testing.assert_allclose(maps, probabilities.maps, atol=1e-3)
    np.testing.assert_allclose(maps.sum(0), 1, atol=1e-6)
    assert (classes, colors) == probabilities[1:]


def test_damaged_files_are_refused(probabilities: ClassProbabilities, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(encode_probabilities(probabilities, Mark("predict")))
    content = path.read_bytes()
    for end in range(0, len(content) - 100, 97):
        path.write_bytes(content[:end] + bytes(len(content) - end))
        with pytest.raises(AtrousError, match=r"a\.npz: not a complete \.npz") as caught:
            read_probabilities(path)
        assert "\n" not in str(caught.value)
    np.savez(path, probabilities=probabilities.maps, classes=["one"], colors=[[0, 0, 0]])
    with pytest.raises(AtrousError, match=r"shape \(3, 20, 30\), 1 classes"):
        read_probabilities(path)
    np.savez(path, probabilities=np.array([{}], object))
    with pytest.raises(AtrousError, match=r"not a complete"):
        read_probabilities(path)
    with pytest.raises(AtrousError, match=r"no such file"):
        read_probabilities(tmp_path / "b.npz")


def test_wrong_sums_are_not_hidden(probabilities: ClassProbabilities, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(encode_probabilities(probabilities._replace(maps=probabilities.maps * 0.5), Mark("predict")))
    np.testing.assert_allclose(read_probabilities(path).maps.sum(0), 0.5, atol=1e-3)
