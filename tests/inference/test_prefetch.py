from __future__ import annotations

import threading
import time

import pytest

from atrous import AtrousError
from atrous.inference.prefetch import BackgroundWorker, prefetch


def test_items_are_prefetched_in_order() -> None:
    def slowly():
        for number in range(5):
            time.sleep(0.05)
            yield number

    start = time.perf_counter()
    result = []
    for item in prefetch(slowly()):
        time.sleep(0.05)
        result.append(item)
    assert result == [0, 1, 2, 3, 4]
    assert time.perf_counter() - start < 0.45  # one after the other it would be 0.5


def test_the_queue_is_bounded() -> None:
    made = []
    items = prefetch((made.append(n) or n for n in range(100)), depth=2)
    assert next(items) == 0
    time.sleep(0.2)
    assert len(made) <= 5
    items.close()
    assert not any(thread.name == "atrous-prefetch" for thread in threading.enumerate())


def test_an_error_is_raised_in_its_turn() -> None:
    def failing():
        yield 1
        raise ValueError("bad")

    items = prefetch(failing())
    assert next(items) == 1
    with pytest.raises(ValueError, match="bad"):
        next(items)


def test_tasks_run_in_order_and_are_waited_for() -> None:
    done: list[int] = []
    with BackgroundWorker() as worker:
        for number in range(10):
            worker.submit(done.append, number)
    assert done == list(range(10))


def test_the_error_of_a_task_is_raised() -> None:
    def fail() -> None:
        raise AtrousError("full disk")

    with pytest.raises(AtrousError, match="full disk"), BackgroundWorker() as worker:
        worker.submit(fail)


def test_waiting_tasks_are_canceled_when_the_block_fails() -> None:
    done: list[int] = []

    def leave_and_fail() -> None:
        with BackgroundWorker(depth=100) as worker:
            worker.submit(time.sleep, 0.05)
            for number in range(50):
                worker.submit(done.append, number)
            raise KeyError

    with pytest.raises(KeyError):
        leave_and_fail()
    assert len(done) < 50
