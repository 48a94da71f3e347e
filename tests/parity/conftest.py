"""Comparisons with what other libraries compute themselves.

`make test-parity` installs the libraries into an environment of its own, runs these tests, and prints the table of
relative differences. Without the libraries they are skipped.
"""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print every difference that a test recorded as a property."""
    lines = [
        f"{report.nodeid.rpartition('/')[2]:75} {value:.1e}  {name.replace('relative_difference', '')}"
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if isinstance(value, float)
    ]
    if lines:
        terminalreporter.section("largest difference, relative to the largest absolute value")
        for line in lines:
            terminalreporter.write_line(line)
