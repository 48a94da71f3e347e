"""Importing `atrous.crf` loads nothing heavy."""

from __future__ import annotations

import inspect
import subprocess
import sys


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*(m for m in ('numba', 'torch', 'cv2', 'matplotlib') if m in sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_loads_nothing_heavy() -> None:
    assert loaded_by("import atrous.crf; dir(atrous.crf)") == set()
    assert loaded_by("from atrous.crf import dense_crf, get_preset; get_preset('v2')") == set()


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


def test_dense_crf_stays_a_function() -> None:
    """The submodule of the same name must not hide it, in whichever order they are imported."""
    run = "import atrous.crf.dense_crf as m, atrous.crf; from atrous.crf import dense_crf; assert callable(dense_crf)"
    assert loaded_by(run) == set()


def test_backends_have_the_same_classes_and_methods() -> None:
    from atrous.crf.numba_backend import mean_field as numba_backend
    from atrous.crf.torch_backend import mean_field as torch_backend

    def public(owner: type) -> set[str]:
        return {name for name, value in vars(owner).items() if callable(value) and not name.startswith("_")}

    for name in ("Unary", "MeanField"):
        assert public(getattr(torch_backend, name)) <= public(getattr(numba_backend, name))
    steps = {"step", "kl_divergence", "write_probabilities", "write_labels"}
    assert steps <= public(torch_backend.MeanFieldState) & public(numba_backend.MeanFieldState)
    signatures = {str(inspect.signature(backend.MeanField.infer)) for backend in (numba_backend, torch_backend)}
    assert len(signatures) == 1
