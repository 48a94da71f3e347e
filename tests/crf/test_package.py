"""What importing costs."""

from __future__ import annotations

import subprocess
import sys


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*(m for m in ('numba', 'torch', 'cv2', 'matplotlib') if m in sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_loads_nothing_heavy() -> None:
    assert loaded_by("import atrous.crf; dir(atrous.crf)") == set()
    assert loaded_by("from atrous.crf import dense_crf, preset; preset('v2')") == set()


def test_numpy_in_and_out_needs_no_torch() -> None:
    run = (
        "import numpy as np; from atrous.crf import dense_crf; dense_crf(np.zeros((2, 2, 3), 'u1'), np.ones((1, 2, 2)))"
    )
    assert loaded_by(run) == {"numba"}


def test_every_public_name_resolves() -> None:
    import atrous.crf

    for name in atrous.crf.__all__:
        assert getattr(atrous.crf, name) is not None
    assert set(atrous.crf.__all__) <= set(dir(atrous.crf))
