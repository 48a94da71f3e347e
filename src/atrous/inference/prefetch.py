"""Overlap reading, the network, and writing: prefetching before the network, a background worker after it.

Threads are enough: decoding, encoding and drawing happen in libraries that release Python's global lock.
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


def prefetch(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """Iterate over `items` in a thread, so that the next ones are made while earlier ones are used.

    At most `depth` items wait in the queue.

    Raises: an exception of the iterable, when the failed item's turn comes; the iteration ends there.
    """
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Any, error: BaseException | None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put((item, error), timeout=0.1)
                break

    def produce() -> None:
        try:
            for item in items:
                put(item, None)
                if stopped.is_set():
                    return
        except BaseException as error:
            put(None, error)
        else:
            put(_END, None)

    producer = threading.Thread(target=produce, daemon=True, name="atrous-prefetch")
    producer.start()
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
        producer.join()


class BackgroundWorker:
    """A thread that runs submitted tasks in order; when more than `depth` tasks wait, `submit` blocks.

    As a context manager it waits for all tasks at the end, or cancels those that wait if the block raises.

    Raises: an exception of a task, at the next `submit` or at the end.
    """

    def __init__(self, depth: int = 2) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="atrous-background")
        self._depth = depth
        self._tasks: list[Future[Any]] = []

    def submit(self, task: Callable[..., Any], *arguments: Any) -> None:
        """Run `task(*arguments)` in the thread."""
        self._tasks.append(self._executor.submit(task, *arguments))
        while len(self._tasks) > self._depth or (self._tasks and self._tasks[0].done()):
            self._tasks.pop(0).result()

    def wait(self) -> None:
        """Wait until all submitted tasks have finished."""
        while self._tasks:
            self._tasks.pop(0).result()

    def __enter__(self) -> BackgroundWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.wait()
        finally:
            self._executor.shutdown(wait=True, cancel_futures=True)
