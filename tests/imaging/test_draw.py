from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from atrous import AtrousError
from atrous.imaging.draw import Comparison, blend_labels, comparison_sheet, contact_sheet, draw_overlay


class Picture(NamedTuple):
    image: np.ndarray
    labels: np.ndarray
    name: str


def test_classes_are_blended_and_ignored_pixels_hatched() -> None:
    image = np.full((16, 16, 3), 100, np.uint8)
    labels = np.zeros((16, 16), np.uint8)
    labels[8:] = 255
    painted = blend_labels(image, labels, [(200, 0, 0)], opacity=0.5)
    assert painted[0, 0].tolist() == [150, 50, 50]
    assert {tuple(pixel) for pixel in painted[10:].reshape(-1, 3).tolist()} == {(100, 100, 100), (255, 255, 255)}


def test_an_overlay_leaves_the_background_and_names_classes_below() -> None:
    image = np.full((60, 200, 3), 100, np.uint8)
    labels = np.zeros((60, 200), np.uint8)
    labels[:, 100:] = 1
    overlay = draw_overlay(image, labels, ("background", "road"), ((0, 0, 0), (200, 0, 0)), opacity=0.5)
    assert overlay.shape[0] > 60
    assert overlay.shape[1] == 200
    assert overlay[0, 0].tolist() == [100, 100, 100]
    assert overlay[0, 199].tolist() == [150, 50, 50]
    assert overlay[0, 100].tolist() == [255, 255, 255]
    with pytest.raises(AtrousError, match="from 0 to 1"):
        draw_overlay(image, labels, ("background", "road"), ((0, 0, 0), (200, 0, 0)), opacity=1.5)


def test_a_comparison_has_a_row_of_image_truth_and_prediction() -> None:
    image = np.full((24, 32, 3), 100, np.uint8)
    truth, prediction = np.full((24, 32), 255, np.uint8), np.ones((24, 32), np.uint8)
    colors = ((0, 0, 0), (200, 0, 0))
    rows = [Comparison(image, truth, prediction, f"{'long/' * 40}a.png: mean IoU {score}") for score in (1, 2)]
    sheet = comparison_sheet(rows, ("background", "road"), colors, row_height=48)
    assert sheet.shape[1] == 320  # at least, for the captions
    for top in (22, 22 + 48 + 22):
        assert [sheet[top + 20, x].tolist() for x in (20, 84, 152)] == [[100] * 3, [255] * 3, [200, 0, 0]]
        assert (sheet[top - 22 : top] > 200).any()  # the caption
        assert not (sheet[top - 22 : top, -2:] > 200).any()  # which is shortened
    legend = sheet[2 * (22 + 48) :].reshape(-1, 3).tolist()
    assert [200, 0, 0] in legend
    assert [255, 255, 255] in legend  # ignored pixels
    assert [0, 0, 0] not in legend  # background does not occur


@pytest.mark.parametrize("size", [(24, 32), (48, 20)])
def test_image_and_labels_of_a_contact_sheet_are_next_to_each_other(size: tuple[int, int]) -> None:
    sample = Picture(np.full((*size, 3), 100, np.uint8), np.zeros(size, np.uint8), "a")
    sheet = contact_sheet([sample], ("sky",), ((200, 0, 0),))
    row = sheet[60].tolist()
    last = max(x for x, pixel in enumerate(row) if pixel == [100] * 3)
    first = min(x for x, pixel in enumerate(row) if pixel[0] > 150 and pixel[1] < 50)
    assert 1 <= first - last <= 5


def test_a_mirrored_view_of_an_image_is_painted_like_a_copy() -> None:
    image = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
    labels = np.zeros((8, 12), np.uint8)
    labels[:, 5:] = 1
    of_view, of_copy = (
        draw_overlay(picture, labels, ("road", "void"), ((200, 0, 0), (0, 0, 0)), legend=False)
        for picture in (image[:, ::-1], image[:, ::-1].copy())
    )
    np.testing.assert_array_equal(of_view, of_copy)
    np.testing.assert_array_equal(of_view[:, 7:], image[:, ::-1][:, 7:])  # "void" stays unpainted
