"""The protocol of the events, at the level of ASGI: who gets what, and who is dropped."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from nextclick.services.api.http_protocol import ConnectionLimits
from nextclick.services.api.page.events import Broadcaster, encode
from tests.unit.services.api.server import serving
from tests.waiting import until

LONG = 30.0


@dataclass
class Reader:
    """A client: `reads` events at once, then none until the test says so."""

    reads: int = 1_000_000
    events: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    ended: bool = False
    got: asyncio.Event = field(default_factory=asyncio.Event)
    leave: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self) -> Message:
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        elif not message.get("more_body", False):
            self.ended = True
        elif len(self.events) >= self.reads:
            await asyncio.Event().wait()  # its connection is full
        else:
            retry, data, *rest = message["body"].decode().split("\n")
            assert (retry, data[:6], rest) == ("retry: 1000", "data: ", ["", ""])
            self.events.append(json.loads(data[6:]))
            self.bodies.append(message["body"])
        self.got.set()

    async def has(self, events: int) -> None:
        while len(self.events) < events:
            self.got.clear()
            await asyncio.wait_for(self.got.wait(), LONG)


class Content:
    """Counts how often the state was put together."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, everything: bool) -> dict[str, Any]:
        self.made += 1
        return {"number": self.made, "everything": everything}


def open_stream(
    broadcaster: Broadcaster, reader: Reader, allowed: Callable[[], bool] = lambda: True
) -> asyncio.Task[None]:
    scope = {"type": "http", "headers": []}
    answer = broadcaster.respond(Request(scope), allowed)
    return asyncio.create_task(answer(scope, reader.receive, reader.send))


def test_all_of_the_state_comes_first_then_what_is_new() -> None:
    async def run() -> None:
        broadcaster, reader = Broadcaster(Content(), tick_seconds=0.01), Reader()
        stream = open_stream(broadcaster, reader)
        await reader.has(4)
        assert reader.headers[b"content-type"].startswith(b"text/event-stream")
        assert reader.headers[b"cache-control"] == b"no-store"
        assert b"content-length" not in reader.headers
        assert [event["everything"] for event in reader.events] == [True, False, False, False]
        reader.leave.set()
        await asyncio.wait_for(stream, LONG)
        assert broadcaster.streams == 0

    asyncio.run(run())


def test_an_event_is_made_once_for_all() -> None:
    async def run() -> None:
        content, readers = Content(), [Reader() for _ in range(50)]
        broadcaster = Broadcaster(content, tick_seconds=0.05)
        streams = [open_stream(broadcaster, reader) for reader in readers]
        for reader in readers:
            await reader.has(4)
        bodies = [body for reader in readers for body in reader.bodies]
        # The same bytes in memory, not alike ones; what a stream gets first is for all, too.
        assert len({id(body) for body in bodies}) == len(set(bodies)) <= content.made
        assert {reader.events[0]["number"] for reader in readers} == {1}
        for reader in readers:
            reader.leave.set()
        await asyncio.wait_for(asyncio.gather(*streams), LONG)

    asyncio.run(run())


def test_other_requests_have_their_turn_while_many_streams_send() -> None:
    async def run() -> None:
        broadcaster, readers = (
            Broadcaster(Content(), tick_seconds=0.2),
            [Reader() for _ in range(99)],
        )
        streams = [open_stream(broadcaster, reader) for reader in readers]
        for reader in readers:
            await reader.has(1)
        most, before = 0, len(readers)
        while before < 2 * len(readers):  # each turn of the loop is one of another request
            await asyncio.sleep(0)
            sent = sum(len(reader.events) for reader in readers)
            most, before = max(most, sent - before), sent
        assert 0 < most <= 20
        for reader in readers:
            reader.leave.set()
        await asyncio.wait_for(asyncio.gather(*streams), LONG)

    asyncio.run(run())


def test_who_never_reads_the_socket_is_dropped_and_holds_up_nobody() -> None:
    """On a real connection, whose buffers take some megabytes before sending stops."""
    broadcaster = Broadcaster(
        lambda everything: {"text": "x" * 500_000}, tick_seconds=0.01, send_seconds=0.2
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await broadcaster.respond(Request(scope), lambda: True)(scope, receive, send)

    limits = ConnectionLimits(max_header_bytes=1024, request_seconds=0.3, max_connections=5)
    get = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    with (
        serving(app, limits) as address,
        socket.create_connection(address, timeout=LONG) as stalled,
        socket.create_connection(address, timeout=LONG) as reading,
    ):
        stalled.sendall(get)
        until(lambda: broadcaster.streams == 1, "the first stream is open")
        reading.sendall(get)
        until(lambda: broadcaster.streams == 2, "the second stream is open")
        while broadcaster.streams == 2:
            assert reading.recv(1_000_000)
        for _ in range(20):
            assert reading.recv(1_000_000)
        assert broadcaster.streams == 1


def test_a_slow_reader_is_dropped_and_holds_up_nobody() -> None:
    async def run() -> None:
        broadcaster = Broadcaster(Content(), tick_seconds=0.01, send_seconds=0.1)
        slow, quick = Reader(reads=2), Reader()
        dropped, other = open_stream(broadcaster, slow), open_stream(broadcaster, quick)
        await asyncio.wait_for(dropped, LONG)
        assert not slow.ended  # cut off
        assert broadcaster.streams == 1
        await quick.has(len(quick.events) + 2)
        quick.leave.set()
        await asyncio.wait_for(other, LONG)

    asyncio.run(run())


def test_more_streams_than_allowed_are_refused() -> None:
    async def run() -> None:
        broadcaster, first, second = Broadcaster(Content(), max_streams=1), Reader(), Reader()
        stream = open_stream(broadcaster, first)
        await first.has(1)
        await open_stream(broadcaster, second)
        assert (second.status, second.headers[b"content-type"]) == (
            503,
            b"application/problem+json",
        )
        assert second.headers[b"retry-after"]
        first.leave.set()
        await asyncio.wait_for(stream, LONG)
        assert (
            broadcaster.respond(Request({"type": "http", "headers": []}), lambda: True).status_code
            == 200
        )

    asyncio.run(run())


@pytest.mark.parametrize("reason", ["signed out", "the server ends"])
def test_a_stream_ends_when_it_may_not_go_on(reason: str) -> None:
    async def run() -> None:
        broadcaster, reader, ended = Broadcaster(Content(), tick_seconds=0.01), Reader(), []
        if reason == "signed out":
            stream = open_stream(broadcaster, reader, lambda: not ended)
        else:
            broadcaster.stopping = lambda: bool(ended)
            stream = open_stream(broadcaster, reader)
        await reader.has(2)
        ended.append(True)
        await asyncio.wait_for(stream, LONG)
        assert reader.ended

    asyncio.run(run())


def test_a_bug_ends_the_streams_and_the_next_ones_work() -> None:
    async def run() -> None:
        broken = [True]

        def content(everything: bool) -> dict[str, Any]:
            if broken and not everything:
                raise ZeroDivisionError
            return {}

        broadcaster, reader = Broadcaster(content, tick_seconds=0.01), Reader()
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(open_stream(broadcaster, reader), LONG)
        broken.clear()
        after = Reader()
        stream = open_stream(broadcaster, after)
        await after.has(3)
        after.leave.set()
        await asyncio.wait_for(stream, LONG)

    asyncio.run(run())


def test_an_event_is_one_line_whatever_ids_hold() -> None:
    event = encode({"item": "a\nb\r\n\ndata: x \u2028 \ud800"})
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 3
    assert b"\r" not in event
