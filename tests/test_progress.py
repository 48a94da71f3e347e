from __future__ import annotations

import io

import pytest
from rich.console import Console

from atrous.progress import make_progress, progress_bar


def test_a_progress_bar_writes_to_standard_error_only(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("evaluating") as on_progress:
        on_progress(1, None)
        on_progress(2, 3)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("unit", "expected"), [("items", "2/3"), ("bytes", "2/3 bytes")])
def test_progress_shows_description_amount_and_a_field(unit: str, expected: str) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120)
    with make_progress(unit=unit, field="loss", console=console) as progress:
        progress.update(progress.add_task("training", total=3, loss="0.25"), completed=2)
    text = stream.getvalue()
    assert "training" in text
    assert expected in text
    assert "0.25" in text
