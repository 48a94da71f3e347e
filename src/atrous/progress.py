"""Progress bars on standard error, for commands, downloads and trainings alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from atrous.console import make_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

OnProgress: TypeAlias = Callable[[int, "int | None"], None]
"""Called with the number of finished items (or bytes), and their total; None where the total is unknown."""


@contextmanager
def progress_bar(
    description: str, *, unit: Literal["items", "bytes"] = "items", disable: bool = False
) -> Iterator[OnProgress]:
    """Show a progress bar while the block runs, and yield the function that moves it; the bar vanishes at the end.

    Example:

        with progress_bar("evaluating") as on_progress:
            evaluate(segmenter, data, on_progress=on_progress)
    """
    with make_progress(unit=unit, transient=True, disable=disable) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def make_progress(
    *,
    unit: Literal["items", "bytes"] = "items",
    field: str | None = None,
    console: Console | None = None,
    **options: Any,
) -> Progress:
    """Create a `rich.progress.Progress` with the columns that all bars of the package have.

    `field` adds the elapsed time and a text column that shows the field of this name of each task. `console` is that of
    standard error by default; `options` are those of `rich.progress.Progress`.
    """
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), BarColumn()]
    columns.append(DownloadColumn() if unit == "bytes" else MofNCompleteColumn())
    if field is not None:
        columns.append(TimeElapsedColumn())
    columns.append(TimeRemainingColumn())
    if field is not None:
        columns.append(TextColumn(f"{{task.fields[{field}]}}", markup=False))
    return Progress(*columns, console=console or make_console(stderr=True), **options)
