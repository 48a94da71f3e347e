"""Text that looks like markup, and names that no terminal can show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

import atrous
from atrous.console import make_console, print_line, printable, styled


@given(st.text(alphabet="[]/\\ax:#{}= ", max_size=12))
def test_values_are_never_read_as_markup(text: str) -> None:
    assert styled("[bold]{}[/]: {} [dim]->[/] x", text, text).plain == f"{text}: {text} -> x"


def test_styles_and_formats_are_those_of_the_template() -> None:
    line = styled("[bold]{}[/] {:.1%} [dim]of {:,}[/]", "[red]", 0.123, 4567)
    assert line.plain == "[red] 12.3% of 4,567"
    assert [(str(span.style), line.plain[span.start : span.end]) for span in line.spans] == [
        ("bold", "[red]"),
        ("dim", "of "),
        ("dim", "4,567"),
    ]


def test_control_characters_become_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\nb\x1b[31m\udcff.jpg"
    print_line("{}", name)
    assert capsys.readouterr().out == "a\\nb\\x1b[31m\\udcff.jpg\n"
    assert printable("Straße 猫.jpg") == "Straße 猫.jpg"


def test_tables_print_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("name")
    table.add_row("[/red] :smile: [x]")
    make_console(width=60).print(table)
    assert "[/red] :smile: [x]" in capsys.readouterr().out


def test_every_console_is_made_here() -> None:
    root = Path(atrous.__file__).parent
    files = [path for path in root.rglob("*.py") if re.search(r"\bConsole\(|markup=True", path.read_text("utf-8"))]
    assert files == [root / "console.py"]
