"""Create the engine for weights: choose it, convert the network unless that is cached, fall back to torch."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from atrous.card import Card
from atrous.errors import AtrousError, did_you_mean
from atrous.inference.engines.cache import EngineCache, cache_key
from atrous.inference.engines.engine import ConversionError, Engine, parallel_calls
from atrous.inference.engines.metadata import InvalidFileError, Precision
from atrous.inference.engines.onnxruntime import OnnxRuntimeEngine, import_onnxruntime
from atrous.inference.engines.openvino import OpenVinoEngine, import_openvino

if TYPE_CHECKING:
    from atrous.models import SegmentationModel

log = logging.getLogger("atrous")

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


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights: its path, card, and the SHA-256 of its tensors (of all bytes in files of other projects)."""

    path: Path
    card: Card | None
    digest: str

    @classmethod
    def read(cls, path: Path) -> WeightsFile:
        """Read card and checksum, without torch; the card of a file of another project is None before it is imported.

        Raises: `AtrousError` for a damaged file, or one without a card.
        """
        from atrous.weights.find import SUFFIX

        if path.suffix != SUFFIX:
            return cls(path, None, hashlib.sha256(path.read_bytes()).hexdigest())
        from atrous.weights.header import digest_file, read_header
        from atrous.weights.tensors import damaged_file_error

        header, digest = read_header(path), digest_file(path)
        if header.digest not in (None, digest):
            raise damaged_file_error(path, "the checksum of the tensors differs")
        return cls(path, header.card, digest)

    def load(self, output_stride: int | None) -> SegmentationModel:
        """Load the network by torch."""
        from atrous.weights.store import load

        model = load(self.path)
        return model if output_stride is None else model.set_output_stride(output_stride)


def create_engine(
    path: Path,
    *,
    engine: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    output_stride: int | None = None,
    throughput: bool = False,
) -> Engine:
    """Create the engine for a file of weights or an exported network.

    "auto" is torch on a GPU; on the CPU ONNX Runtime, or OpenVINO if bfloat16 is asked for, and torch where these are
    not installed or cannot run the network. A network is converted once: the result is cached, see `cache`. The
    precision "auto" is float32, or that of a quantized file. `throughput` serves several calls at once (see
    `Engine.parallel`), each with its share of the cores, where a single call would have them all.

    Raises: `AtrousError` for an unknown name, and for what the engine or the network does not support.
    """
    _check_names(engine, precision)
    parallel = parallel_calls() if throughput else 1
    if path.suffix in EXPORTED:
        return _open_exported(path, engine, precision, device, output_stride, parallel)
    device = resolve_device(device)
    precision = "float32" if precision == "auto" else precision
    name = _choose(precision, device) if engine == "auto" else engine
    _check_support(name, precision, device)
    weights = WeightsFile.read(path)
    if name in ("torch", "compile"):
        return _torch_engine(name, weights, device, precision, output_stride)
    try:
        return _converted_engine(name, weights, precision, output_stride, parallel)
    except ConversionError as error:
        if engine != "auto":
            raise
        log.info("%s The engine is torch.", error)
    return _torch_engine("torch", weights, device, precision, output_stride)


def resolve_device(device: str) -> str:
    """Choose the fastest device for "auto": a GPU or the CPU; torch is imported only where there may be a GPU."""
    if device != "auto":
        return device
    drivers = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA, Windows' Linux, AMD
    if sys.platform == "linux" and "torch" not in sys.modules and not any(map(os.path.exists, drivers)):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def is_installed(name: str) -> bool:
    """Tell whether the package of an engine is installed."""
    return importlib.util.find_spec(name) is not None


def _check_names(engine: str, precision: str) -> None:
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


def _torch_engine(name: str, weights: WeightsFile, device: str, precision: str, output_stride: int | None) -> Engine:
    from atrous.inference.engines.torch import CompiledEngine, TorchEngine

    model = weights.load(output_stride)
    assert model.card is not None
    kind = CompiledEngine if name == "compile" else TorchEngine
    return kind(model, model.card, device=device, precision=cast(Precision, precision))


def _converted_engine(
    name: str, weights: WeightsFile, precision: str, output_stride: int | None, parallel: int
) -> Engine:
    """Create an engine from the cache, or convert the network and put it there."""
    package = import_openvino() if name == "openvino" else import_onnxruntime()
    card = weights.card
    key = cache_key(
        digest=weights.digest,
        network=None if card is None else (card.model, card.arguments, card.align_corners, len(card.classes)),
        output_stride=output_stride,
        engine=name,
        engine_version=package.__version__,
    )
    cache = EngineCache()
    engine = _load_cached(cache, key, name, precision, parallel)
    if engine is None:
        with cache.lock():
            engine = _load_cached(cache, key, name, precision, parallel)  # another process may have made it meanwhile
            engine = engine or _convert(cache, key, name, weights, precision, output_stride, parallel)
    if card is not None:  # the entry may hold an older one, with other measured figures
        engine.metadata = engine.metadata.model_copy(update={"card": card})
    return engine


def _load_cached(cache: EngineCache, key: str, name: str, precision: str, parallel: int) -> Engine | None:
    content = cache.load(key)
    if content is None:
        return None
    try:
        if name == "onnxruntime":
            return OnnxRuntimeEngine(content, optimized=True, parallel=parallel)
        return OpenVinoEngine(content, precision=cast(Precision, precision), parallel=parallel)
    except InvalidFileError:
        cache.discard(key)
        return None


def _convert(
    cache: EngineCache,
    key: str,
    name: str,
    weights: WeightsFile,
    precision: str,
    output_stride: int | None,
    parallel: int,
) -> Engine:
    from atrous.inference.engines.convert import check_scores, describe_network, to_onnx

    log.info("Converting %s for %s, once; the result is kept in %s.", weights.path.name, name, cache.folder)
    model = weights.load(output_stride)
    assert model.card is not None
    content = to_onnx(model, describe_network(model, model.card))
    engine: Engine
    if name == "onnxruntime":
        engine, content = OnnxRuntimeEngine.optimize(content, parallel=parallel)
    else:
        engine = OpenVinoEngine(content, precision=cast(Precision, precision), parallel=parallel)
    check_scores(engine, model)
    cache.store(key, content)
    return engine
