"""Engines of converted networks: from the cache, or converted from weights and put there."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from atrous.card import Card
from atrous.inference.engines.cache import EngineCache, cache_key
from atrous.inference.engines.engine import Engine
from atrous.inference.engines.metadata import InvalidFileError, Precision
from atrous.inference.engines.onnxruntime import OnnxRuntimeEngine, import_onnxruntime
from atrous.inference.engines.openvino import OpenVinoEngine, import_openvino

if TYPE_CHECKING:
    from atrous.models import SegmentationModel

log = logging.getLogger("atrous")


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights: its path, card, and the SHA-256 of its tensors, or of all bytes in files of other projects."""

    path: Path
    card: Card | None
    digest: str

    @classmethod
    def read(cls, path: Path) -> WeightsFile:
        """Read card and checksum, without torch; the card of a file of another project is None before it is imported.

        Raises: `AtrousError` for a damaged file, or one without a card.
        """
        from atrous.weights.header import digest_file, has_card, read_header
        from atrous.weights.tensors import damaged_file_error

        if not has_card(path):
            from atrous.weights.importers.formats import digest_files

            return cls(path, None, digest_files(path))
        header, digest = read_header(path), digest_file(path)
        if header.digest not in (None, digest):
            raise damaged_file_error(path, "the checksum of the tensors differs")
        return cls(path, header.card, digest)

    def load(self, output_stride: int | None) -> SegmentationModel:
        """Load the network by torch."""
        from atrous.weights.store import load

        model = load(self.path)
        return model if output_stride is None else model.set_output_stride(output_stride)


@dataclass(frozen=True)
class EngineSettings:
    """How weights are to be run: see `create_engine`; `parallel` is the number of calls at once."""

    name: str
    precision: Precision
    device: str
    output_stride: int | None
    parallel: int


def converted_engine(weights: WeightsFile, settings: EngineSettings, *, defer: bool = False) -> Engine | None:
    """Create an engine from the cache, or convert the network and put it there.

    With `defer`, None is returned instead of converting a network that is used for the first time.

    Raises: `ConversionError` for a network that cannot be converted, `AtrousError` if the runtime is not installed.
    """
    package = import_openvino() if settings.name == "openvino" else import_onnxruntime()
    card = weights.card
    key = cache_key(
        digest=weights.digest,
        network=None if card is None else (card.model, card.arguments, card.align_corners, len(card.classes)),
        output_stride=settings.output_stride,
        engine=settings.name,
        engine_version=package.__version__,
    )
    cache = EngineCache()
    engine = _load_cached(cache, key, settings)
    if engine is None and defer and cache.is_first_use(key):
        return None
    if engine is None:
        with cache.lock():
            engine = _load_cached(cache, key, settings)  # another process may have made it meanwhile
            engine = engine or _convert(cache, key, weights, settings)
    if card is not None:  # the entry may hold an older one, with other measured figures
        engine.metadata = engine.metadata.model_copy(update={"card": card})
    return engine


def _load_cached(cache: EngineCache, key: str, settings: EngineSettings) -> Engine | None:
    content = cache.load(key)
    if content is None:
        return None
    try:
        if settings.name == "onnxruntime":
            return OnnxRuntimeEngine(content, optimized=True, parallel=settings.parallel)
        return OpenVinoEngine(content, precision=settings.precision, parallel=settings.parallel)
    except InvalidFileError:
        cache.discard(key)
        return None


def _convert(cache: EngineCache, key: str, weights: WeightsFile, settings: EngineSettings) -> Engine:
    from atrous.inference.engines.convert import check_scores, describe_network, to_onnx

    log.info("Converting %s for %s, once; the result is kept in %s.", weights.path.name, settings.name, cache.folder)
    model = weights.load(settings.output_stride)
    assert model.card is not None
    content = to_onnx(model, describe_network(model, model.card))
    engine: Engine
    if settings.name == "onnxruntime":
        engine, optimized = OnnxRuntimeEngine.optimize(content, parallel=settings.parallel)
    else:
        engine = OpenVinoEngine(content, precision=settings.precision, parallel=settings.parallel)
        optimized = content
    check_scores(engine, model)
    if optimized is not None:
        cache.store(key, optimized)
    return engine
