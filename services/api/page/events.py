"""Server-sent events: the state of the page, once a second, to all who have it open.

Each event is encoded once for all streams. A stream holds no queue: it sends the newest event, and
one that takes too long to be sent ends the stream. So memory does not grow with slow readers.
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

log = logging.getLogger(__name__)

MAX_STREAMS = 1000
TICK_SECONDS = 1.0
SEND_SECONDS = 10.0
"""A stream ends if an event could not be sent for so long."""

Content = Callable[[bool], dict[str, Any]]
"""The state as JSON; the argument says whether a new reader gets it, who needs all of it."""


def encode(content: dict[str, Any]) -> bytes:
    """One event. A browser that lost the connection tries again after a second, then later."""
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return f"retry: 1000\ndata: {data}\n\n".encode("utf-8", "replace")


class Broadcaster:
    """Computes the events while somebody reads, and counts the streams."""

    def __init__(
        self,
        content: Content,
        *,
        max_streams: int = MAX_STREAMS,
        tick_seconds: float = TICK_SECONDS,
        send_seconds: float = SEND_SECONDS,
    ) -> None:
        """content runs in a thread, once a tick and once for each new stream."""
        self._content = content
        self._max_streams = max_streams
        self._tick_seconds = tick_seconds
        self._send_seconds = send_seconds
        self._ticking: asyncio.Task[None] | None = None
        self._next: asyncio.Future[bytes] | None = None
        self.streams = 0
        self.stopping: Callable[[], bool] = lambda: False
        """Streams end once this is true, so that a server that ends need not wait for them."""

    def respond(self, request: Request, allowed: Callable[[], bool]) -> Response:
        """A stream for a request, which ends when `allowed` does not hold any more; else 503."""
        if self.streams >= self._max_streams:
            return problem(503, f"{self.streams} pages are open", headers={"Retry-After": "10"})
        return _EventStream(self, allowed)

    async def serve(self, receive: Receive, send: Send, allowed: Callable[[], bool]) -> None:
        """Send events until the client leaves, is too slow, or may not read any more."""
        self.streams += 1
        gone = asyncio.create_task(_disconnected(receive))
        try:
            event = encode(await asyncio.to_thread(self._content, True))
            while allowed() and not gone.done() and not self.stopping():
                body = {"type": "http.response.body", "body": event, "more_body": True}
                await asyncio.wait_for(send(body), self._send_seconds)
                following = self._following()
                waited: set[asyncio.Future[Any]] = {gone, following}
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                event = following.result() if following.done() else b""
            await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            # The response stays incomplete, so the server closes the connection.
            log.info("a page took no event for %g s, its stream ends", self._send_seconds)
        finally:
            gone.cancel()
            self.streams -= 1

    def _following(self) -> asyncio.Future[bytes]:
        """The next event, of the task that makes one each tick."""
        if self._next is None or self._ticking is None or self._ticking.done():
            self._next = asyncio.get_running_loop().create_future()
            self._ticking = asyncio.create_task(self._tick())
        return self._next

    async def _tick(self) -> None:
        """Make events as long as somebody reads."""
        assert self._next is not None
        try:
            while self.streams:
                await asyncio.sleep(self._tick_seconds)
                event = encode(await asyncio.to_thread(self._content, False))
                done, self._next = self._next, asyncio.get_running_loop().create_future()
                done.set_result(event)
        except Exception as error:  # a bug: it ends all streams, not only this task
            self._next.set_exception(error)


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


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
