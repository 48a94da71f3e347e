"""Work before and behind the network, done while the network runs.

Threads are enough: decoding, encoding and drawing happen in libraries that let go of Python's lock.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

_END = object()


def ahead(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """The items, each made in a thread while earlier ones are used; at most `depth` wait.

    Raises: what making an item raises, when its turn comes; nothing follows it.
    """
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Any, error: BaseException | None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put((item, error), timeout=0.1)
                break

    def make() -> None:
        try:
            for item in items:
                put(item, None)
                if stopped.is_set():
                    return
        except BaseException as error:
            put(None, error)
        else:
            put(_END, None)

    maker = threading.Thread(target=make, daemon=True, name="atrous-ahead")
    maker.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
        maker.join()


class BackgroundWorker:
    """One thread that does in order what is left to it; at most `depth` tasks wait, then `do` does.

    As a context it waits for all of them at the end, or drops them when the block raises.

    Raises: what a task raised, at the next `do` or at the end.
    """

    def __init__(self, depth: int = 2) -> None:
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="atrous-behind")
        self._depth = depth
        self._tasks: list[Future[Any]] = []

    def do(self, task: Callable[..., Any], *arguments: Any) -> None:
        """Leave `task(*arguments)` to the thread."""
        self._tasks.append(self._worker.submit(task, *arguments))
        while len(self._tasks) > self._depth or (self._tasks and self._tasks[0].done()):
            self._tasks.pop(0).result()

    def finish(self) -> None:
        """Wait for what was left to the thread."""
        while self._tasks:
            self._tasks.pop(0).result()

    def __enter__(self) -> BackgroundWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            self._worker.shutdown(wait=True, cancel_futures=True)
