"""Overlap reading, the network, and writing: several images side by side, prefetching, a background worker.

Threads are enough: decoding, encoding and drawing happen in libraries that release Python's global lock.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
Result = TypeVar("Result")

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


def parallel_map(function: Callable[[T], Result], items: Iterable[T], workers: int) -> Generator[Result]:
    """Apply a function to items in several threads, and yield the results in the order of the items.

    At most `2 * workers` results are in progress or wait. Where the iteration ends early, no further item is begun, and
    those in progress are finished first; `contextlib.closing` makes sure of that wherever the caller fails.

    Raises: an exception of the function or of the iterable, when the item's turn comes; the iteration ends there.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="atrous-parallel") as executor:
        waiting: deque[Future[Result]] = deque()
        try:
            for task in _tasks(executor, function, items):
                waiting.append(task)
                if len(waiting) == 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for task in waiting:
                task.cancel()


def _tasks(
    executor: ThreadPoolExecutor, function: Callable[[T], Result], items: Iterable[T]
) -> Iterator[Future[Result]]:
    """Submit a task for each item; an exception of the iterable becomes that of the last task."""
    try:
        for item in items:
            yield executor.submit(function, item)
    except Exception as error:
        failed: Future[Result] = Future()
        failed.set_exception(error)
        yield failed


def group_consecutive(items: Iterable[T], key: Callable[[T], object], limit: int) -> Iterator[list[T]]:
    """Group up to `limit` consecutive items whose `key` is the same.

    Raises: an exception of the iterable, after the group of the items before it.
    """
    group: list[T] = []
    failure: Exception | None = None
    try:
        for item in items:
            if group and (len(group) == limit or key(item) != key(group[0])):
                yield group
                group = []
            group.append(item)
    except Exception as error:
        failure = error
    if group:
        yield group
    if failure is not None:
        raise failure


class Slots:
    """Limit the threads that use something at once: `with slots.take():` waits until one of `count` slots is free."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = threading.Semaphore(count)
        self._alone = threading.Lock()

    @contextlib.contextmanager
    def take(self, *, alone: bool = False) -> Iterator[None]:
        """Take one slot, or all of them (`alone`), for the block."""
        wanted = self._count if alone else 1
        with self._alone if alone else contextlib.nullcontext():  # two that take all would wait for each other
            for _ in range(wanted):
                self._free.acquire()
        try:
            yield
        finally:
            self._free.release(wanted)


class BusyTimer:
    """Measure the time in which one or more threads are inside `with timer:`.

    Attributes: `seconds`, the time so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._threads = 0
        self._start = 0.0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            if self._threads == 0:
                self._start = time.perf_counter()
            self._threads += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._threads -= 1
            if self._threads == 0:
                self.seconds += time.perf_counter() - self._start


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
