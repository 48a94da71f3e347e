"""Batch what waits together: items with the same key are processed in one call, in the order of their arrival."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Waiting(NamedTuple):
    key: Hashable
    item: Any
    future: Future[Any]


class Batcher(Generic[Item, Result]):
    """Process items in `workers` threads: the item that has waited longest, together with others of the same key.

    `process(items)` returns a result for each item, or an exception, which becomes that of the item's future. A
    batch is never waited for: a free thread takes what is there, up to `max_batch` items. Items whose future was
    canceled are left out.
    """

    def __init__(
        self,
        process: Callable[[list[Item]], Sequence[Result | BaseException]],
        *,
        workers: int,
        max_batch: int = 1,
    ) -> None:
        self._process = process
        self._max_batch = max_batch
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"atrous-serve-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """Count the waiting items."""
        return len(self._waiting)

    def submit(self, key: Hashable, item: Item) -> Future[Result]:
        """Add an item.

        Raises: `RuntimeError` after `close`.
        """
        future: Future[Result] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("The batcher is closed.")
            self._waiting.append(_Waiting(key, item, future))
            self._changed.notify()
        return future

    def close(self, seconds: float | None = None) -> None:
        """Process what waits, and end the threads; wait for that, but for no longer than some seconds.

        Threads that take longer do not keep the process from ending.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        end = None if seconds is None else time.monotonic() + seconds
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        while batch := self._next_batch():
            self._finish(batch)
            del batch  # while the thread waits, it keeps nothing

    def _finish(self, batch: list[_Waiting]) -> None:
        try:
            results = self._process([each.item for each in batch])
        except BaseException as error:
            results = [error] * len(batch)
        for each, result in zip(batch, results, strict=True):
            if isinstance(result, BaseException):
                each.future.set_exception(result)
            else:
                each.future.set_result(result)

    def _next_batch(self) -> list[_Waiting]:
        """Wait for a batch; empty if the batcher was closed and nothing waits."""
        with self._changed:
            while not (batch := self._take_batch()) and not self._closed:
                self._changed.wait()
            return batch

    def _take_batch(self) -> list[_Waiting]:
        """Take the item that has waited longest, and others of its key."""
        batch: list[_Waiting] = []
        rest: deque[_Waiting] = deque()
        for each in self._waiting:
            fits = not batch or (len(batch) < self._max_batch and each.key == batch[0].key)
            if not fits:
                rest.append(each)
            elif each.future.set_running_or_notify_cancel():
                batch.append(each)
        self._waiting = rest
        return batch
