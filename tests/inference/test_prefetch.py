from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from atrous import AtrousError, Segmenter
from atrous.inference.prefetch import BackgroundWorker, prefetch
from tests.inference.test_tiling import Small, card, noise


def test_items_are_made_meanwhile_and_in_order() -> None:
    def slowly():
        for number in range(5):
            time.sleep(0.05)
            yield number

    start = time.perf_counter()
    found = []
    for item in prefetch(slowly()):
        time.sleep(0.05)
        found.append(item)
    assert found == [0, 1, 2, 3, 4]
    assert time.perf_counter() - start < 0.45  # one after the other it would be 0.5


def test_no_more_wait_than_asked() -> None:
    made = []
    items = prefetch((made.append(n) or n for n in range(100)), depth=2)
    assert next(items) == 0
    time.sleep(0.2)
    assert len(made) <= 5
    items.close()
    assert not any(thread.name == "atrous-prefetch" for thread in threading.enumerate())


def test_an_error_comes_when_its_turn_does() -> None:
    def failing():
        yield 1
        raise ValueError("bad")

    items = prefetch(failing())
    assert next(items) == 1
    with pytest.raises(ValueError, match="bad"):
        next(items)


def test_tasks_are_done_in_order_and_waited_for() -> None:
    done: list[int] = []
    with BackgroundWorker() as worker:
        for number in range(10):
            worker.submit(done.append, number)
    assert done == list(range(10))


def test_a_task_that_fails_is_heard_of() -> None:
    def fail() -> None:
        raise AtrousError("full disk")

    with pytest.raises(AtrousError, match="full disk"), BackgroundWorker() as worker:
        worker.submit(fail)


def test_what_waits_is_dropped_when_the_block_fails() -> None:
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


def test_batches_of_mixed_sizes_give_what_single_images_do() -> None:
    segmenter = Segmenter(Small(False), card(False), device="cpu")
    pictures = [noise(40, 50), noise(40, 50), noise(40, 50), noise(33, 20), noise(40, 50)]
    batches: list[int] = []
    network = segmenter.model.body.forward
    segmenter.model.body.forward = lambda x: batches.append(len(x)) or network(x)
    together = list(segmenter.segment_many(pictures, batch=2))
    assert batches == [2, 1, 1, 1]
    for picture, found in zip(pictures, together, strict=True):
        np.testing.assert_array_equal(found.labels, segmenter(picture).labels)
