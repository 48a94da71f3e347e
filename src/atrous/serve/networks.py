"""The networks of the service: those named at its start, each at the output strides that requests ask for."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atrous.card import Card
from atrous.errors import AtrousError, did_you_mean
from atrous.inference.engines.create import create_engine
from atrous.inference.engines.engine import Engine
from atrous.serve.limits import ServiceError
from atrous.weights import find_weights

MAX_ENGINES = 8
"""The number of engines in memory, beyond one for each of the weights; the one that was not used longest is dropped."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Model:
    """Weights of the service: the id that requests name them by, their file, card, and output strides."""

    id: str
    path: Path
    card: Card
    output_stride: int
    possible_output_strides: tuple[int, ...]


class Networks:
    """Load the networks of the service, and keep an engine for each pair of weights and output stride in use.

    `weights` are ids and paths; `NAME=PATH` gives a file an id of its own, which is otherwise its name without suffix.
    `options` are those of `atrous.inference.engines.create.create_engine`.

    Attributes: `models` by id, in the order of `weights`.
    Raises: `AtrousError` for weights that cannot be loaded, or two of the same id.
    """

    def __init__(self, weights: Sequence[str], **options: Any) -> None:
        if not weights:
            raise AtrousError("The service has no weights: name at least one id or file.")
        self._options = options
        self._engines: OrderedDict[tuple[str, int], Future[Engine]] = OrderedDict()
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="atrous-load")
        self.models: dict[str, Model] = {}
        for source in weights:
            self._add(*_split(source))

    def _add(self, name: str, source: str) -> None:
        if name in self.models:
            raise AtrousError(f"Two weights have the id '{name}': give one another id, such as -w other={source}.")
        path = find_weights(source)
        engine = create_engine(path, **self._options)
        metadata = engine.metadata
        self.models[name] = Model(
            name, path, metadata.card, metadata.output_stride, tuple(metadata.possible_output_strides)
        )
        loaded: Future[Engine] = Future()
        loaded.set_result(engine)
        self._engines[name, metadata.output_stride] = loaded

    @property
    def parallel(self) -> int:
        """The number of forward passes at once."""
        return next(iter(self._engines.values())).result().parallel

    @property
    def device(self) -> str:
        """The device of the networks."""
        return next(iter(self._engines.values())).result().device

    def find(self, name: str | None) -> Model:
        """Find weights by id; the first for None.

        Raises: `ServiceError` (unknown_model).
        """
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise ServiceError(
                "unknown_model",
                f"There is no model '{name:.100}'.{did_you_mean(name[:100], self.models)} "
                f"The models are: {', '.join(self.models)}.",
            )
        return self.models[name]

    def engine(self, model: Model, output_stride: int | None) -> Future[Engine]:
        """Find the engine of a model at an output stride, or load it in a thread.

        Raises: `ServiceError` (invalid_option) for a stride at which the network does not run.
        """
        stride = output_stride or model.output_stride
        if stride not in {*model.possible_output_strides, model.output_stride}:
            possible = ", ".join(map(str, model.possible_output_strides))
            raise ServiceError(
                "invalid_option", f"output_stride {stride}: {model.id} runs at {possible or model.output_stride}."
            )
        key = model.id, stride
        with self._lock:
            future = self._engines.get(key)
            if future is None or (future.done() and future.exception() is not None):
                future = self._loader.submit(create_engine, model.path, **self._options, output_stride=stride)
                self._engines[key] = future
                self._drop_oldest()
            self._engines.move_to_end(key)
        return future

    def _drop_oldest(self) -> None:
        others = [key for key in self._engines if key[1] != self.models[key[0]].output_stride]
        for key in others[: max(0, len(others) - MAX_ENGINES)]:
            del self._engines[key]

    def close(self) -> None:
        """Stop loading."""
        self._loader.shutdown(wait=False, cancel_futures=True)


def _split(source: str) -> tuple[str, str]:
    """Split `NAME=PATH`; otherwise the id is that of the weights, or the name of the file."""
    name, equals, path = source.partition("=")
    if not equals or Path(source).exists():
        path = source
        name = Path(source).stem if Path(source).is_file() else source.rstrip("/").rsplit("/", 1)[-1]
    if not _ID.fullmatch(name):
        raise AtrousError(f"-w {source}: '{name}' is no id of letters, digits, '.', '_' and '-': write ID={path}.")
    return name, path
