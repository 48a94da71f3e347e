"""Run work in actors of a Ray cluster by Ray Data, in batches; lost actors are replaced, their batches repeated."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from atrous.errors import AtrousError
from atrous.scale.cluster import Resources

if TYPE_CHECKING:
    from ray.data import Dataset

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_BATCH = 64
"""The largest number of items that are lost with a worker."""
BATCHES_PER_WORKER = 8
"""At least so many batches go to each worker, so that all finish at about the same time."""
MAX_ATTEMPTS = 3
"""The number of workers that a batch may take with it, before its items are tried one by one."""


def run_in_actors(
    create: Callable[..., Callable[[list[Item]], Result]],
    arguments: dict[str, Any],
    items: Sequence[Item],
    resources: Resources,
) -> Generator[tuple[list[Item], Result | None]]:
    """Apply a function to batches of items in the actors of a cluster, and yield each batch with its result.

    `create(**arguments)` makes the function in each actor. If an actor dies, another one takes its place and repeats
    its batch. If several die of the same batch, its items are tried one by one, and the result of an item that no actor
    survives is None. Batches come in the order in which they finish.

    Raises: `AtrousError` of the function, at once.
    """
    size = max(1, min(MAX_BATCH, len(items) // (BATCHES_PER_WORKER * (resources.workers or 1))))
    batches = [list(items[start : start + size]) for start in range(0, len(items), size)]
    lost = yield from _run_batches(create, arguments, batches, resources)
    singles = [[item] for batch in lost for item in batch]
    if singles:
        lost = yield from _run_batches(create, arguments, singles, resources)
        for batch in lost:
            yield batch, None


def _run_batches(
    create: Callable[..., Callable[[list[Item]], Result]],
    arguments: dict[str, Any],
    batches: list[list[Item]],
    resources: Resources,
) -> Generator[tuple[list[Item], Result], None, list[list[Item]]]:
    """Yield batches with their results, and return those that were lost."""
    import ray

    attempts = ray.remote(num_cpus=0)(_Attempts).remote()
    rows = _start({"create": create, "arguments": arguments, "attempts": attempts}, batches, resources)
    lost = []
    for row in rows.iter_rows():
        # As safe as Ray itself, which pickles all that passes between the processes of a cluster; nothing is of a file.
        batch, outcome = batches[row["number"]], pickle.loads(row["result"])
        if isinstance(outcome, AtrousError):
            raise outcome
        if isinstance(outcome, _Lost):
            lost.append(batch)
        else:
            yield batch, outcome
    return lost


def _start(arguments: dict[str, Any], batches: Sequence[list[Any]], resources: Resources) -> Dataset:
    """Describe the batches as a data set with a row and a block for each, which actors map to results."""
    import ray.data

    rows = [{"number": number, "items": pickle.dumps(batch)} for number, batch in enumerate(batches)]
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Actor,
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_kwargs=arguments,
        num_cpus=resources.num_cpus,
        num_gpus=resources.num_gpus or 0,
        compute=ray.data.ActorPoolStrategy(size=min(resources.workers or 1, len(rows))),
    )


class _Lost:
    """The result of a batch of which too many actors died."""


class _Attempts:
    """Count the attempts of each batch, outside the actors that may die of it."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def begin(self, number: int) -> int:
        self._counts[number] = self._counts.get(number, 0) + 1
        return self._counts[number]


class _Actor(Generic[Item, Result]):
    """Apply a function to the items of a row; it is created at the first one, so that its errors reach the driver."""

    def __init__(
        self, create: Callable[..., Callable[[list[Item]], Result]], arguments: dict[str, Any], attempts: Any
    ) -> None:
        self._create = create
        self._arguments = arguments
        self._attempts = attempts
        self._function: Callable[[list[Item]], Result] | None = None

    def __call__(self, rows: Any) -> dict[str, list[Any]]:
        (number,), (items,) = rows["number"].to_pylist(), rows["items"].to_pylist()
        return {"number": [number], "result": [pickle.dumps(self._run(number, pickle.loads(items)))]}

    def _run(self, number: int, items: list[Item]) -> Result | AtrousError | _Lost:
        import ray

        if ray.get(self._attempts.begin.remote(number)) > MAX_ATTEMPTS:
            return _Lost()
        try:
            if self._function is None:
                self._function = self._create(**self._arguments)
            return self._function(items)
        except AtrousError as error:
            return AtrousError(str(error))
