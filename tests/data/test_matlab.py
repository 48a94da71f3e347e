"""MATLAB files that are damaged, truncated, or not of labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atrous import AtrousError
from atrous.data import Item, MaskReader
from atrous.data.datasets import voc
from atrous.data.matlab import MatReader
from tests.data_fixtures import write_mat

savemat = pytest.importorskip("scipy.io").savemat
READER = MatReader(("GTcls", "Segmentation"), MaskReader(voc.CLASSES))


@pytest.fixture
def item(tmp_path: Path) -> Item:
    write_mat(tmp_path / "b.mat", np.full((24, 32), 1, np.uint8))
    return Item("b", tmp_path / "b.jpg", tmp_path / "b.mat")


def test_a_matrix_of_labels(item: Item) -> None:
    labels = READER(item)
    assert labels.shape == (24, 32)
    assert labels.dtype == np.uint8
    assert (labels == 1).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not a MATLAB file"), (b"hello, I am a text" * 20, "not a MATLAB file"), (None, "no such file")],
)
def test_hostile_files(item: Item, content: bytes | None, message: str) -> None:
    assert item.mask is not None
    item.mask.unlink()
    if content is not None:
        item.mask.write_bytes(content)
    with pytest.raises(AtrousError, match=message) as caught:
        READER(item)
    assert "b.mat" in str(caught.value)


@pytest.mark.parametrize("kept", [0.3, 0.8])
def test_a_truncated_file(item: Item, kept: float) -> None:
    assert item.mask is not None
    item.mask.write_bytes(item.mask.read_bytes()[: int(item.mask.stat().st_size * kept)])
    with pytest.raises(AtrousError, match=r"b\.mat"):
        READER(item)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"GTinst": {"Segmentation": np.ones((2, 2))}}, "contains no GTcls.Segmentation"),
        ({"GTcls": {"Boundaries": 1}}, "contains no GTcls.Segmentation"),
        ({"GTcls": {"Segmentation": np.full((2, 2), 0.5)}}, "is float64 of shape"),
    ],
)
def test_other_content(item: Item, content: dict[str, object], message: str) -> None:
    savemat(item.mask, content)
    with pytest.raises(AtrousError, match=message):
        READER(item)


def test_a_value_without_a_class(item: Item) -> None:
    assert item.mask is not None
    write_mat(item.mask, np.full((24, 32), 21, np.uint8))
    with pytest.raises(AtrousError, match=r"value 21 \(768 px\) without a class"):
        READER(item)
