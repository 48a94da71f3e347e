"""Devices and strategies, and Ctrl-C."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from atrous import AtrousError
from atrous.training.fabric import catch_interrupt
from tests.training.conftest import small

pytest.importorskip("lightning_fabric", reason="needs the extra 'train'")

from atrous.training import train


def test_fsdp_needs_two_processes_and_a_supported_precision(street: str, tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match="fsdp shards a network over processes and needs at least 2: use --devices 2"):
        train(small(street), tmp_path / "run", strategy="fsdp", devices=1)
    with pytest.raises(AtrousError, match="precision=64-true is not supported with fsdp"):
        train(small(street, "precision=64-true"), tmp_path / "other", strategy="fsdp", devices=2)
    with pytest.raises(AtrousError, match="Unknown strategy 'zero'"):
        train(small(street), tmp_path / "third", strategy="zero")


def test_the_second_ctrl_c_stops_at_once() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with catch_interrupt() as interrupted:
            signal.raise_signal(signal.SIGINT)
            assert interrupted.wait(5)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_another_thread_is_left_alone() -> None:
    handlers = []

    def target() -> None:
        with catch_interrupt() as interrupted:
            handlers.append((signal.getsignal(signal.SIGINT), interrupted.is_set()))

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    assert handlers == [(signal.getsignal(signal.SIGINT), False)]
