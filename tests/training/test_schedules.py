"""Schedules against the papers' numbers."""

from __future__ import annotations

import pytest

from atrous import AtrousError
from atrous.training.schedules import Constant, Poly, Step, WarmUp


def test_poly() -> None:
    assert Poly()(0, 30000) == 1
    assert Poly()(15000, 30000) == pytest.approx(0.5**0.9)
    assert Poly()(29999, 30000) == pytest.approx((1 / 30000) ** 0.9)
    assert Poly()(30000, 30000) == Poly()(31000, 30000) == 0
    assert Poly(power=1, end_factor=0.1)(50, 100) == pytest.approx(0.55)


def test_step_of_deeplab_v1() -> None:
    schedule = Step(step_size=2000)
    assert [schedule(step, 6000) for step in (0, 1999)] == [1, 1]
    assert [schedule(step, 6000) for step in (2000, 3999, 4000)] == pytest.approx([0.1, 0.1, 0.01])


def test_step_at_given_steps() -> None:
    schedule = Step(milestones=(10, 30), gamma=0.5)
    assert [schedule(step, 99) for step in (0, 9, 10, 29, 30, 98)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    "options", [{}, {"step_size": 5, "milestones": (1,)}, {"milestones": (5, 3)}, {"step_size": -1}]
)
def test_invalid_steps(options) -> None:
    with pytest.raises(AtrousError, match="give either a positive step_size or milestones"):
        Step(**options)


def test_warmup() -> None:
    schedule = WarmUp(Constant(), steps=10, start_factor=0.1)
    assert [schedule(step, 100) for step in (0, 5, 10, 50)] == pytest.approx([0.1, 0.55, 1, 1])
    assert WarmUp(Poly(), steps=10)(5, 100) == pytest.approx(0.55 * 0.95**0.9)
