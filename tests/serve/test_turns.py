"""Turns are given in the order of arrival, and are not lost with those who leave."""

from __future__ import annotations

import asyncio

from atrous.serve.turns import Turns


def test_order_and_those_who_leave() -> None:
    turns, order = Turns(2), []

    async def hold(number: int, gate: asyncio.Event) -> None:
        async with turns.take():
            order.append(number)
            await gate.wait()

    async def run() -> None:
        gate = asyncio.Event()
        tasks = [asyncio.ensure_future(hold(number, gate)) for number in range(6)]
        await asyncio.sleep(0.05)
        assert (order, len(turns)) == ([0, 1], 4)
        tasks[2].cancel()  # waits
        tasks[0].cancel()  # has a turn
        await asyncio.sleep(0.05)
        assert (order, len(turns)) == ([0, 1, 3], 2)
        gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [0, 1, 3, 4, 5]
        assert (len(turns), turns._free) == (0, 2)

    asyncio.run(run())


def test_someone_who_leaves_just_as_the_turn_is_given() -> None:
    turns = Turns(1)

    async def run() -> None:
        async def hold() -> None:
            async with turns.take():
                await asyncio.sleep(0)

        for _ in range(50):
            tasks = [asyncio.ensure_future(hold()) for _ in range(4)]
            for task in tasks:
                await asyncio.sleep(0)
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert turns._free == 1

    asyncio.run(run())
