from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from atrous import load
from atrous.errors import AtrousError
from atrous.export import export_model
from atrous.inference.benchmark import Benchmark, Run, TimedProcess, Timing, benchmark_engines, take_turns
from atrous.models import SegmentationModel
from atrous.weights import save

PACKAGED = "deeplab_v3_plus.efficientnet_lite0.camvid"


def prepare_log(path: str, name: str) -> Run:
    def run() -> np.ndarray:
        with Path(path).open("a") as file:
            file.write(name)
        return np.full(3, len(name), np.float32)

    return run


def prepare_failure() -> Run:
    raise AtrousError("no such engine")


def test_processes_take_turns_after_warming_up(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    with TimedProcess(prepare_log, log, "a") as a, TimedProcess(prepare_log, log, "b") as b:
        Path(log).write_text("")
        seconds = take_turns([a, b], rounds=3)
        memory = a.peak_memory()
        assert a.result is not None
        assert a.result.tolist() == [1, 1, 1]
    assert Path(log).read_text() == "ababab"
    assert [len(runs) for runs in seconds] == [3, 3]
    assert memory is None or memory > 2**20


def test_a_failure_in_the_process_is_reported_with_its_message() -> None:
    with pytest.raises(AtrousError, match="no such engine"):
        TimedProcess(prepare_failure)


def test_figures_derived_from_the_times() -> None:
    timing = Timing("torch", "float32", (1.0, 2.0, 9.0), peak_memory=None, difference=None)
    result = Benchmark([timing], batch=4, multiply_adds=100, peaks={"float32": 200.0})
    assert timing.median == 2
    assert timing.spread == pytest.approx((1.2, 7.6))
    assert result.images_per_second(timing) == 2
    assert result.share_of_peak(timing) == 0.25
    assert result.share_of_peak(Timing("openvino", "int8", (1.0,), None, None)) is None


def test_engines_are_compared_with_eager_torch() -> None:
    result = benchmark_engines(
        PACKAGED, [("onnxruntime", "float32")], size=(65, 97), batch=2, output_stride=16, rounds=2
    )
    eager, engine = result.timings
    assert (eager.engine, eager.difference) == ("eager", 0)
    assert engine.difference is not None
    assert engine.difference < 1e-3
    assert engine.median > 0
    assert result.multiply_adds == 2 * benchmark_multiply_adds(65, 97)
    assert set(result.peaks) == {"float32"}


def test_multiply_adds_of_an_exported_file_are_those_at_its_stride(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    model = load(PACKAGED)
    assert isinstance(model, SegmentationModel)
    export_model(model.set_output_stride(16), tmp_path / "street.onnx")
    result = benchmark_engines(tmp_path / "street.onnx", [("onnxruntime", "float32")], size=(65, 97), rounds=1)
    assert result.multiply_adds == benchmark_multiply_adds(65, 97)


def test_scores_that_are_all_zero_differ_by_nothing(tmp_path: Path) -> None:
    """As those of networks before their training, whose classifiers begin at zero."""
    model = load(PACKAGED)
    assert isinstance(model, SegmentationModel)
    for layer in model.head():
        for parameter in layer.parameters():
            torch.nn.init.zeros_(parameter)
    weights = save(model, tmp_path / "zero.safetensors")
    result = benchmark_engines(weights, [("onnxruntime", "float32")], size=(65, 97), rounds=1)
    assert [timing.difference for timing in result.timings] == [0, 0]


def benchmark_multiply_adds(height: int, width: int) -> int:
    import atrous
    from atrous.analysis.counts import multiply_adds

    return multiply_adds(atrous.load(PACKAGED).set_output_stride(16), height, width)


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(AtrousError, match="onnxruntime"):
        benchmark_engines(PACKAGED, [("onnxruntim", "float32")], size=(65, 65), rounds=1)
