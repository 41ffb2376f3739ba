"""ASGI middleware: limits the size of request bodies, counts and times requests."""

from __future__ import annotations

import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nextclick.shared.runtime import metrics

_WITHOUT_BODY = ("GET", "HEAD", "DELETE", "OPTIONS")


class BodyLimit:
    """Rejects a request with status 413 as soon as more than `max_bytes` of its body are read.

    FastAPI has such a limit, too, but does not always answer with a problem document.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or scope["method"] in _WITHOUT_BODY:
            await self._app(scope, receive, send)
            return
        read = 0

        async def receive_limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max_bytes:
                limit = f"a request has {self._max_bytes} bytes at most"
                raise HTTPException(413, limit, headers={"Connection": "close"})
            return message

        await self._app(scope, receive_limited, send)


class RequestMetrics:
    """Counts requests by route and status, and times them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500

        async def send_recorded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_recorded)
        finally:
            # The route's template, not the path: paths would make too many label values.
            route = getattr(scope.get("route"), "path", "other")
            metrics.HTTP_REQUESTS.labels(route, str(status)).inc()
            metrics.HTTP_SECONDS.labels(route).observe(time.perf_counter() - began)
