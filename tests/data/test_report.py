from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from atrous.data.inspect import inspect_splits, open_splits
from atrous.data.report import write_html
from atrous.imaging.draw import contact_sheet
from tests.data_fixtures import Write


def test_report(own: Path, write: Write) -> None:
    write(own / "classes.yaml", "classes: ['<script>alert(1)</script>', road, tree]")
    inspection = inspect_splits(open_splits(str(own)))
    samples = inspection.example_samples(4)
    assert len(samples) == 4
    assert {label for sample in samples for label in np.unique(sample.labels).tolist()} == {0, 1, 2, 255}
    sheet = contact_sheet(samples, inspection.classes, inspection.datasets[0].colors)
    page = write_html(inspection, sheet)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "No errors" in page
    assert "data:image/jpeg;base64," in page
    assert "http" not in page
    json.dumps(inspection.to_json())


def test_report_of_unreadable_files(own: Path, write: Write) -> None:
    for path in (*own.glob("images/*"), *own.glob("masks/*")):
        path.write_bytes(b"")
    inspection = inspect_splits(open_splits(str(own)))
    assert len(inspection.errors) == 12
    assert inspection.example_samples() == []
    assert "12 errors" in write_html(inspection, None)
    assert all(entry["frequency"] is None for entry in inspection.to_json()["classes"])
