"""Server-sent events: the state of the page, once a second, to all who have it open.

Each event is encoded once for all streams, in a thread. A stream holds no queue: it sends the
newest event, and one that takes too long to be sent ends the stream. So memory does not grow with
slow readers. A thousand streams send one after the other, with breaks for other requests.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nextclick.services.api.problems import problem
from nextclick.services.api.single_flight import SingleFlight

log = logging.getLogger(__name__)

MAX_STREAMS = 1000
TICK_SECONDS = 1.0
SEND_SECONDS = 10.0
"""A stream ends if an event could not be sent for so long."""
_STREAMS_AT_ONCE = 20
"""Streams that send without a break: a millisecond of the event loop."""

Content = Callable[[bool], dict[str, Any]]
"""The state as JSON; the argument says whether a new reader gets it, who needs all of it."""


def encode(content: dict[str, Any]) -> bytes:
    """One event. A browser that lost the connection tries again after a second, then later."""
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return f"retry: 1000\ndata: {data}\n\n".encode("utf-8", "replace")


class Broadcaster:
    """Computes the events while somebody reads, and gives them to the streams."""

    def __init__(
        self,
        content: Content,
        *,
        max_streams: int = MAX_STREAMS,
        tick_seconds: float = TICK_SECONDS,
        send_seconds: float = SEND_SECONDS,
    ) -> None:
        """content runs in a thread, once a tick, and once more in a tick with new streams."""
        self._everything = SingleFlight(lambda: encode(content(True)), fresh_seconds=tick_seconds)
        self._news = SingleFlight(lambda: encode(content(False)))
        self._max_streams = max_streams
        self._tick_seconds = tick_seconds
        self._send_seconds = send_seconds
        self._ticking: asyncio.Task[None] | None = None
        self._readers: set[_Reader] = set()
        self.stopping: Callable[[], bool] = lambda: False
        """Streams end once this is true, so that a server that ends need not wait for them."""

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._readers)

    def respond(self, request: Request, allowed: Callable[[], bool]) -> Response:
        """A stream for a request, which ends when `allowed` does not hold any more; else 503."""
        if self.streams >= self._max_streams:
            return problem(503, f"{self.streams} pages are open", headers={"Retry-After": "10"})
        return _EventStream(self, allowed)

    async def serve(self, receive: Receive, send: Send, allowed: Callable[[], bool]) -> None:
        """Send events until the client leaves, is too slow, or may not read any more."""
        reader = _Reader()
        self._readers.add(reader)
        leaving = asyncio.create_task(reader.wait_until_gone(receive))
        try:
            event = await self._everything.result()
            while allowed() and not reader.gone and not self.stopping():
                body = {"type": "http.response.body", "body": event, "more_body": True}
                async with asyncio.timeout(self._send_seconds):
                    await send(body)
                if self._ticking is None or self._ticking.done():
                    self._ticking = asyncio.create_task(self._tick())
                event = await reader.next_event()
            await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            # The response stays incomplete, so the server closes the connection.
            log.info("a page took no event for %g s, its stream ends", self._send_seconds)
        finally:
            leaving.cancel()
            self._readers.discard(reader)

    async def _tick(self) -> None:
        """Make events as long as somebody reads."""
        try:
            while self._readers:
                await asyncio.sleep(self._tick_seconds)
                event = await self._news.result()
                for place, reader in enumerate(tuple(self._readers)):
                    reader.give(event)
                    if place % _STREAMS_AT_ONCE == _STREAMS_AT_ONCE - 1:
                        await asyncio.sleep(0)  # other requests have their turn
        except Exception as error:  # a bug: it ends all streams, not only this task
            for reader in self._readers:
                reader.fail(error)


class _Reader:
    """One stream. While it sends, it misses events; what follows has what it needs of them."""

    def __init__(self) -> None:
        self.gone = False
        self._next: asyncio.Future[bytes] | None = None

    async def next_event(self) -> bytes:
        """Wait for the next event; empty if the client is gone."""
        if self.gone:
            return b""
        self._next = asyncio.get_running_loop().create_future()
        return await self._next

    def give(self, event: bytes) -> None:
        """Let the stream send this event, if it waits for one."""
        if self._next is not None and not self._next.done():
            self._next.set_result(event)

    def fail(self, error: Exception) -> None:
        """End the stream."""
        if self._next is not None and not self._next.done():
            self._next.set_exception(error)

    async def wait_until_gone(self, receive: Receive) -> None:
        """Wait until the client leaves."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self.give(b"")


class _EventStream(Response):
    media_type = "text/event-stream"

    def __init__(self, broadcaster: Broadcaster, allowed: Callable[[], bool]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._broadcaster = broadcaster
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        await self._broadcaster.serve(receive, send, self._allowed)
