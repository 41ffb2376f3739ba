from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from nextclick.services.api import batches
from nextclick.services.api.batches import MicroBatcher, Overloaded
from nextclick.shared.errors import Unavailable


class Echo:
    """Answers a number by itself, when it is let."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.busy = threading.Event()
        self.seen: list[list[int]] = []

    def __call__(self, requests: list[int]) -> list[int]:
        self.busy.set()
        assert self.go.wait(10)
        self.seen.append(requests)
        if -1 in requests:
            raise Unavailable("away")
        return requests


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def batcher(echo: Echo) -> Iterator[MicroBatcher[int, int]]:
    made: MicroBatcher[int, int] = MicroBatcher("echo", echo, max_batch=3, max_waiting=6)
    made.start()
    yield made
    echo.go.set()
    made.stop()


async def begun(
    echo: Echo, batcher: MicroBatcher[int, int], requests: list[int]
) -> list[asyncio.Task[int]]:
    """Ask; the first request is under way, the others wait."""
    tasks = []
    for request in requests:
        tasks.append(asyncio.create_task(batcher.submit(request)))
        await asyncio.sleep(0)
        if len(tasks) == 1:
            await asyncio.to_thread(echo.busy.wait)
    return tasks


def test_what_waits_is_answered_together(echo: Echo, batcher: MicroBatcher[int, int]) -> None:
    async def run() -> list[int]:
        tasks = await begun(echo, batcher, [1, 2, 3, 4, 5])
        echo.go.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(run()) == [1, 2, 3, 4, 5]
    assert echo.seen == [[1], [2, 3, 4], [5]]


def test_an_error_reaches_everyone_in_its_batch_and_nobody_else(
    echo: Echo, batcher: MicroBatcher[int, int]
) -> None:
    async def run() -> list[int | BaseException]:
        tasks = await begun(echo, batcher, [1, -1, 2, 3, 4])
        echo.go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(run())
    assert [str(answer) for answer in answers] == ["1", "away", "away", "away", "4"]


def test_more_than_may_wait_are_refused_at_once(
    echo: Echo, batcher: MicroBatcher[int, int]
) -> None:
    async def run() -> None:
        tasks = await begun(echo, batcher, [1, 2, 3, 4, 5, 6])
        with pytest.raises(Overloaded, match="6 requests wait"):
            await batcher.submit(7)
        echo.go.set()
        await asyncio.gather(*tasks)
        assert await batcher.submit(8) == 8  # and are taken again once there is room

    asyncio.run(run())


def test_a_client_that_disconnects_delays_nobody(
    echo: Echo, batcher: MicroBatcher[int, int]
) -> None:
    async def run() -> list[int]:
        tasks = await begun(echo, batcher, [1, 2, 3])
        tasks[1].cancel()
        echo.go.set()
        return [await tasks[0], await tasks[2]]

    assert asyncio.run(run()) == [1, 3]


def test_stopping_answers_what_waits(echo: Echo) -> None:
    batcher: MicroBatcher[int, int] = MicroBatcher("echo", echo, max_batch=2, max_waiting=10)
    batcher.start()

    async def run() -> list[int]:
        tasks = await begun(echo, batcher, [1, 2, 3, 4])
        echo.go.set()
        await asyncio.to_thread(batcher.stop)
        return await asyncio.gather(*tasks)

    assert asyncio.run(run()) == [1, 2, 3, 4]
    with pytest.raises(Unavailable, match="has ended"):
        batcher.check()


def test_a_thread_that_is_stuck_is_not_alive(
    echo: Echo, batcher: MicroBatcher[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        (task,) = await begun(echo, batcher, [1])
        batcher.check()
        monkeypatch.setattr(batches, "STUCK_SECONDS", 0.0)
        with pytest.raises(Unavailable, match="stuck"):
            batcher.check()
        echo.go.set()
        await task

    asyncio.run(run())
