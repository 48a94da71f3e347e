"""Messages of errors: a long value of a damaged file does not fill the screen."""

from __future__ import annotations

import pickle

from atrous import AtrousError


def test_long_lines_are_shortened_in_the_middle() -> None:
    message = str(AtrousError(f"a.yaml: there is no key '{'x' * 5000}'. Correct the file.\n  {'y' * 100}"))
    first, second = message.split("\n")
    assert len(first) == 1500
    assert first.startswith("a.yaml: there is no key 'xxx")
    assert first.endswith("xxx'. Correct the file.")
    assert " ... " in first
    assert second == f"  {'y' * 100}"


def test_errors_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(AtrousError("a: no such file.")))
    assert (type(error), str(error)) == (AtrousError, "a: no such file.")
