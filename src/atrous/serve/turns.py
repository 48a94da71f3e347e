"""Let a limited number of requests be worked on at once, in the order of their arrival; the others wait cheaply."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager


class Turns:
    """Limit the holders of something: `async with turns.take():` waits until fewer than `count` hold it.

    It serves several event loops. `len(turns)` counts those that wait.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[Future[None]] = deque()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Count those that wait."""
        return len(self._waiting)

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it within the block."""
        turn: Future[None] = Future()
        with self._lock:
            self._waiting.append(turn)
        self._give()
        try:
            await asyncio.wrap_future(turn)
            yield
        finally:
            if not turn.cancel():  # it was given, maybe just before the waiting ended
                with self._lock:
                    self._free += 1
            self._give()

    def _give(self) -> None:
        """Give free turns to those who have waited longest and still do."""
        with self._lock:
            while self._waiting and (self._free or self._waiting[0].cancelled()):
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    self._free -= 1
                    turn.set_result(None)
