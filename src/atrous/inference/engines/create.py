"""Create the engine for weights or an exported network: choose it, check what it supports, fall back to torch."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

from atrous.errors import AtrousError, did_you_mean
from atrous.inference.engines.converted import EngineSettings, WeightsFile, converted_engine
from atrous.inference.engines.engine import ConversionError, Engine, parallel_calls
from atrous.inference.engines.metadata import Precision
from atrous.inference.engines.onnxruntime import OnnxRuntimeEngine
from atrous.inference.engines.openvino import OpenVinoEngine

log = logging.getLogger("atrous")

DEVICES = ("cpu", "cuda", "mps")
"""The kinds of devices."""
ENGINES = ("auto", "torch", "compile", "onnxruntime", "openvino")
PRECISIONS = ("auto", *get_args(Precision))

EXPORTED = (".onnx", ".xml")
"""The suffixes of exported networks, which run without torch."""

_SUPPORTED = {
    "torch": ("float32", "bfloat16"),
    "compile": ("float32", "bfloat16"),
    "onnxruntime": ("float32",),
    "openvino": ("float32", "bfloat16"),
}
"""The precisions of each engine for a network that is not quantized."""


def create_engine(
    path: Path,
    *,
    engine: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    output_stride: int | None = None,
    throughput: bool = False,
    defer_conversion: bool = False,
) -> Engine:
    """Create the engine for a file of weights or an exported network.

    "auto" is torch on a GPU; on the CPU ONNX Runtime, or OpenVINO if bfloat16 is asked for, and torch where these are
    not installed or cannot run the network. A network is converted once: the result is cached, see `cache`. The
    precision "auto" is float32, or that of a quantized file. `throughput` serves several calls at once (see
    `Engine.parallel`), each with its share of the cores, where a single call would have them all. With
    `defer_conversion` and the engine "auto", weights that are used for the first time run by torch and are converted
    the next time, because converting takes longer than it saves for a single image.

    Raises: `AtrousError` for an unknown name, and for what the engine or the network does not support.
    """
    check_names(engine, precision)
    if path.suffix == ".pt2":
        raise AtrousError(
            f"{path}: a .pt2 file can contain code, which loading would run: load it with torch.export.load if you "
            "trust it, or use the weights that it was exported from."
        )
    if path.suffix == ".pte":
        raise AtrousError(f"{path}: ExecuTorch's files are for other programs: use the weights it was exported from.")
    parallel = parallel_calls() if throughput else 1
    if path.suffix in EXPORTED:
        return _open_exported(path, engine, precision, device, output_stride, parallel)
    device = resolve_device(device)
    arithmetic = cast(Precision, "float32" if precision == "auto" else precision)
    name = _choose(arithmetic, device) if engine == "auto" else engine
    _check_support(name, arithmetic, device)
    check_available(device)
    weights = WeightsFile.read(path)
    settings = EngineSettings(name, arithmetic, device, output_stride, parallel)
    if name in ("torch", "compile"):
        return _torch_engine(weights, settings)
    try:
        # Until a network is converted, PyTorch runs it in float32.
        defer = defer_conversion and engine == "auto" and arithmetic == "float32"
        converted = converted_engine(weights, settings, defer=defer)
    except ConversionError as error:
        if engine != "auto":
            raise
        log.info("%s The engine is torch.", error)
        return _torch_engine(weights, replace(settings, name="torch"))
    return _eager_engine(weights, settings) if converted is None else converted


def resolve_device(device: str) -> str:
    """Choose the fastest device for "auto": a GPU or the CPU; torch is imported only where there may be a GPU.

    Raises: `AtrousError` for an unknown device.
    """
    if device != "auto":
        kind, _, number = device.partition(":")
        if kind not in DEVICES or (number and not number.isdecimal()):
            hint = " Did you mean 'cuda'?" if kind == "gpu" else did_you_mean(kind, DEVICES)
            raise AtrousError(f"There is no device '{device}'.{hint} Use auto, {', '.join(DEVICES)} or cuda:1.")
        return device
    drivers = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA, Windows' Linux, AMD
    if sys.platform == "linux" and "torch" not in sys.modules and not any(map(os.path.exists, drivers)):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def check_available(device: str) -> None:
    """Raise `AtrousError` for a device that this machine, or this build of torch, lacks."""
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return
    import torch

    if kind == "mps":
        available = int(torch.backends.mps.is_available())
    else:
        available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or 0) >= available:
        devices = f"has {available} device{'s' * (available > 1)} of this kind" if available else "has no such device"
        raise AtrousError(
            f"device '{device}': this machine, or its build of torch {torch.__version__}, {devices}. Use auto or cpu."
        )


def is_installed(name: str) -> bool:
    """Tell whether the package of an engine is installed."""
    return importlib.util.find_spec(name) is not None


def check_names(engine: str, precision: str) -> None:
    """Check the names of an engine and a precision.

    Raises: `AtrousError` for an unknown one.
    """
    for kind, name, known in (("engine", engine, ENGINES), ("precision", precision, PRECISIONS)):
        if name not in known:
            raise AtrousError(f"There is no {kind} '{name}'.{did_you_mean(name, known)} Known: {', '.join(known)}.")


def _choose(precision: str, device: str) -> str:
    if device != "cpu":
        return "torch"
    name = "openvino" if precision == "bfloat16" else "onnxruntime"
    if is_installed(name):
        return name
    log.info("%s is not installed, which is faster on the CPU: the engine is torch.", name)
    return "torch"


def _check_support(name: str, precision: str, device: str) -> None:
    if precision == "int8":
        raise AtrousError(
            "precision 'int8': these weights are not quantized. Make a quantized network with `atrous quantize`."
        )
    if precision not in _SUPPORTED[name]:
        able = [engine for engine, precisions in _SUPPORTED.items() if precision in precisions]
        raise AtrousError(f"The engine '{name}' does not compute in {precision}: use {' or '.join(able)}.")
    if device != "cpu" and name not in ("torch", "compile"):
        raise AtrousError(
            f"The engine '{name}' runs on the CPU, not on '{device}': use engine 'torch', or device 'cpu'."
        )


def _open_exported(
    path: Path, engine: str, precision: str, device: str, output_stride: int | None, parallel: int
) -> Engine:
    name = ("onnxruntime" if path.suffix == ".onnx" else "openvino") if engine == "auto" else engine
    if name in ("torch", "compile") or (name == "onnxruntime" and path.suffix != ".onnx"):
        able = "onnxruntime or openvino" if path.suffix == ".onnx" else "openvino"
        raise AtrousError(f"{path}: the engine '{name}' does not run {path.suffix} files: use {able}.")
    if device not in ("auto", "cpu"):
        raise AtrousError(f"{path}: exported networks run on the CPU, not on '{device}': use device 'cpu'.")
    if name == "onnxruntime":
        if precision == "bfloat16":
            _check_support(name, precision, "cpu")
        opened: Engine = OnnxRuntimeEngine(path, parallel=parallel)
    else:
        arithmetic: Precision = "bfloat16" if precision == "bfloat16" else "float32"
        opened = OpenVinoEngine(path, precision=arithmetic, parallel=parallel)
    if opened.metadata.output == "labels":
        raise AtrousError(
            f"{path}: this file takes 8-bit images and gives labels, for other programs; inference here needs scores. "
            "Export the weights without --labels."
        )
    if precision not in ("auto", opened.precision):
        raise AtrousError(f"{path}: this network computes in {opened.precision}, not in {precision}.")
    if output_stride not in (None, opened.output_stride):
        raise AtrousError(
            f"{path}: this network was exported at output stride {opened.output_stride}, which is fixed. Export the "
            f"weights again with --output-stride {output_stride}."
        )
    return opened


def _eager_engine(weights: WeightsFile, settings: EngineSettings) -> Engine:
    """Create the engine that is ready first, for a single image."""
    from atrous.inference.engines.torch import EagerEngine

    log.info("%s is used for the first time: the engine is torch; the next time it is converted.", weights.path.name)
    model = weights.load(settings.output_stride)
    assert model.card is not None
    return EagerEngine(model, model.card, settings.device)


def _torch_engine(weights: WeightsFile, settings: EngineSettings) -> Engine:
    from atrous.inference.engines.torch import CompiledEngine, TorchEngine

    model = weights.load(settings.output_stride)
    assert model.card is not None
    kind = CompiledEngine if settings.name == "compile" else TorchEngine
    return kind(model, model.card, device=settings.device, precision=settings.precision)
