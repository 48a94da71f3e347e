"""What waits together is processed together; nothing else changes."""

from __future__ import annotations

import threading

import pytest

from atrous.serve.batcher import Batcher


class Recorder:
    """Double numbers, and keep the batches; the first batch waits until `gate` is set."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started = threading.Event()
        self.gate = threading.Event()

    def __call__(self, items: list[int]) -> list[int | BaseException]:
        self.batches.append(items)
        self.started.set()
        assert self.gate.wait(10)
        return [ValueError(str(item)) if item < 0 else 2 * item for item in items]


def test_items_of_one_key_share_a_batch_in_the_order_of_arrival() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, workers=1, max_batch=3)
    futures = [batcher.submit("a", 0)]
    assert recorder.started.wait(10)
    futures += [batcher.submit(key, number) for number, key in enumerate("abaabaa", 1)]
    assert len(batcher) == 7
    recorder.gate.set()
    batcher.close()
    assert recorder.batches == [[0], [1, 3, 4], [2, 5], [6, 7]]
    assert [future.result() for future in futures] == [0, 2, 4, 6, 8, 10, 12, 14]
    with pytest.raises(RuntimeError):
        batcher.submit("a", 0)


def test_items_that_were_canceled_are_left_out() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, workers=1, max_batch=8)
    batcher.submit("a", 0)
    assert recorder.started.wait(10)
    futures = [batcher.submit("a", number) for number in (1, 2, 3)]
    assert futures[1].cancel()
    assert not batcher.submit("b", 9).cancelled()
    recorder.gate.set()
    batcher.close()
    assert recorder.batches == [[0], [1, 3], [9]]


def test_an_error_is_that_of_its_item_or_of_the_whole_batch() -> None:
    recorder = Recorder()
    recorder.gate.set()
    batcher = Batcher(recorder, workers=2, max_batch=8)
    assert isinstance(batcher.submit("a", -1).exception(10), ValueError)
    assert batcher.submit("a", 1).result(10) == 2
    assert isinstance(batcher.submit("a", None).exception(10), TypeError)
    batcher.close()
