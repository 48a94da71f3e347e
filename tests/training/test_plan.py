"""The plan before training."""

from __future__ import annotations

import pytest

from atrous.training.plan import summarize
from tests.training.conftest import small

NTH = ("2nd", "3rd", "4th", "8th", "11th", "12th", "13th", "21st", "22nd", "23rd", "112th")


@pytest.mark.parametrize("nth", NTH)
def test_the_pixels_of_the_loss(nth: str) -> None:
    recipe = small("camvid:nowhere", f"loss_stride={nth[:-2]}")
    assert summarize(recipe.stages[0])["loss"] == f"cross_entropy, every {nth} pixel"


def test_all_pixels_are_not_mentioned() -> None:
    assert summarize(small("camvid:nowhere").stages[0])["loss"] == "cross_entropy"
