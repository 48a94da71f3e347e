from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrous import AtrousError
from atrous.inference.prefetch import BackgroundWorker, BusyTimer, Slots, group_consecutive, parallel_map, prefetch


def test_items_are_prefetched_in_order() -> None:
    made = [threading.Event() for _ in range(5)]

    def numbers():
        for number, event in enumerate(made):
            event.set()
            yield number

    result = []
    for item in prefetch(numbers()):
        assert made[min(item + 1, 4)].wait(60)  # the next one is made while this one is used
        result.append(item)
    assert result == [0, 1, 2, 3, 4]


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
    begun, end = threading.Event(), threading.Event()

    def wait_for_end() -> None:
        begun.set()
        end.wait(60)

    def leave_and_fail() -> None:
        with BackgroundWorker(depth=100) as worker:
            worker.submit(wait_for_end)
            assert begun.wait(60)
            for number in range(50):
                worker.submit(done.append, number)
            threading.Timer(0.5, end.set).start()  # after the rest was canceled
            raise KeyError

    with pytest.raises(KeyError):
        leave_and_fail()
    assert done == []


def test_results_of_several_threads_keep_the_order() -> None:
    barrier = threading.Barrier(3, timeout=30)

    def together(number: int) -> int:
        barrier.wait()  # passes only where three items are in progress at once
        time.sleep(0.02 * (3 - number % 3))
        return number * number

    assert list(parallel_map(together, range(12), 3)) == [n * n for n in range(12)]


def test_few_items_are_begun_before_their_results_are_taken() -> None:
    begun: list[int] = []
    results = parallel_map(lambda n: begun.append(n) or n, iter(range(100)), 2)
    assert [next(results), next(results)] == [0, 1]
    time.sleep(0.1)
    assert len(begun) <= 6
    results.close()
    assert len(begun) <= 6
    assert not any(thread.name.startswith("atrous-parallel") for thread in threading.enumerate())


@pytest.mark.parametrize("broken", ["function", "items"])
def test_an_error_of_a_thread_is_raised_in_its_turn(broken: str) -> None:
    def items():
        yield from range(3)
        if broken == "items":
            raise ValueError("bad")
        yield from range(3, 9)

    def function(number: int) -> int:
        if number == 3:
            raise ValueError("bad")
        return number

    results = parallel_map(function, items(), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="bad"):
        next(results)


@given(st.lists(st.integers(0, 2)), st.integers(1, 4))
def test_groups_are_of_one_key_and_as_large_as_allowed(items: list[int], limit: int) -> None:
    groups = list(group_consecutive(items, lambda item: item, limit))
    assert [item for group in groups for item in group] == items
    assert all(len(set(group)) == 1 and len(group) <= limit for group in groups)
    for group, following in pairwise(groups):
        assert len(group) == limit or group[0] != following[0]


def test_the_timer_counts_time_in_several_threads_once() -> None:
    timer = BusyTimer()

    def work() -> None:
        with timer:
            time.sleep(0.1)

    start = time.perf_counter()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.1 <= timer.seconds <= time.perf_counter() - start


def test_slots_are_taken_by_a_number_of_threads_or_by_one_alone() -> None:
    slots, inside, seen = Slots(3), [], []

    def work(number: int) -> None:
        alone = number % 4 == 0
        with slots.take(alone=alone):
            inside.append(alone)
            time.sleep(0.005)
            seen.append(list(inside))
            inside.remove(alone)

    list(parallel_map(work, range(40), 8))
    assert len(seen) == 40
    assert all(len(together) <= 3 for together in seen)
    assert all(together == [True] for together in seen if any(together))


def test_all_slots_are_taken_at_once() -> None:
    slots, meeting = Slots(3), threading.Barrier(3, timeout=60)

    def work(number: int) -> None:
        with slots.take():
            meeting.wait()  # raises unless three threads are here together

    list(parallel_map(work, range(6), 3))
