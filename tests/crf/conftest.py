from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of third-party data; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("ATROUS_TEST_DATA", Path(__file__).parents[2] / "../shared/data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set ATROUS_TEST_DATA to the folder that has it")
    return folder
