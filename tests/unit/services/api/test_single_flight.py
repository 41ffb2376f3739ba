from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field

import pytest

from nextclick.services.api.single_flight import SingleFlight


@dataclass
class Counted:
    """Returns how often it was called, once it may; raises if it is broken."""

    calls: int = 0
    broken: bool = False
    may_end: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> int:
        self.calls += 1
        assert self.may_end.wait(10)
        if self.broken:
            raise ZeroDivisionError
        return self.calls


async def asked_by(many: int, flight: SingleFlight[int]) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(flight.result()) for _ in range(many)]
    await asyncio.sleep(0)  # all have asked
    return tasks


def test_all_who_ask_at_the_same_time_get_one_result() -> None:
    async def run() -> None:
        function = Counted()
        flight = SingleFlight(function)
        first, *others = await asked_by(50, flight)
        first.cancel()  # one that leaves holds up nobody
        await asyncio.sleep(0)
        function.may_end.set()
        assert await asyncio.gather(*others) == [1] * 49
        assert await flight.result() == 2

    asyncio.run(run())


def test_a_fresh_result_is_given_again() -> None:
    async def run() -> None:
        function, now = Counted(), [0.0]
        function.may_end.set()
        flight = SingleFlight(function, fresh_seconds=1, clock=lambda: now[0])
        results = []
        for now[0] in (0.0, 0.9, 1.0, 1.9, 2.0):
            results.append(await flight.result())
        assert results == [1, 1, 2, 2, 3]

    asyncio.run(run())


def test_an_error_reaches_all_and_is_not_kept() -> None:
    async def run() -> None:
        function = Counted(broken=True)
        flight = SingleFlight(function, fresh_seconds=60)
        tasks = await asked_by(3, flight)
        function.may_end.set()
        for task in tasks:
            with pytest.raises(ZeroDivisionError):
                await task
        function.broken = False
        assert await flight.result() == 2

    asyncio.run(run())
