"""ASGI middleware: metrics, security headers, access, and limits on requests and their bodies."""

from __future__ import annotations

import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nextclick.services.api.access import Access
from nextclick.services.api.problems import SECURITY_HEADERS, Rejected, problem
from nextclick.shared.runtime import metrics

_WITHOUT_BODY = ("GET", "HEAD", "DELETE", "OPTIONS")
_SECURITY_HEADERS = [(n.lower().encode(), v.encode()) for n, v in SECURITY_HEADERS.items()]
_FRAMES_ONLY = (b"content-security-policy", b"frame-ancestors 'none'")


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


class AccessCheck:
    """Lets requests in that `Access` lets in; answers HEAD as GET, whose body the server drops."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            self._access.check(scope)
        except Rejected as error:
            if scope["type"] == "http":
                await error.response()(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return
        if scope.get("method") == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


class RequestLimit:
    """Answers 503 while `most` requests are in progress, instead of letting them queue up.

    A stream of events counts until it begins: it may be open for hours and costs next to nothing.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._in_progress = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._in_progress >= self._most:
            detail = f"{self._most} requests are in progress already"
            await problem(503, detail, headers={"Retry-After": "1"})(scope, receive, send)
            return
        counted = True

        async def send_uncounting_streams(message: Message) -> None:
            nonlocal counted
            starts = counted and message["type"] == "http.response.start"
            if starts and _is_event_stream(message):
                counted = False
                self._in_progress -= 1
            await send(message)

        self._in_progress += 1
        try:
            await self._app(scope, receive, send_uncounting_streams)
        finally:
            self._in_progress -= counted


class SecurityHeaders:
    """Adds SECURITY_HEADERS to every response that has none of the same name."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"] = list(message.get("headers", ()))
                names = {name for name, _ in headers}
                if (b"content-type", b"text/html; charset=utf-8") in headers:
                    # A page says itself what it may load; the default would leave it empty.
                    names.add(_FRAMES_ONLY[0])
                    if _FRAMES_ONLY[0] not in dict(headers):
                        headers.append(_FRAMES_ONLY)
                headers += [pair for pair in _SECURITY_HEADERS if pair[0] not in names]
            await send(message)

        await self._app(scope, receive, send_secured)


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
        status, seconds = 500, None

        async def send_recorded(message: Message) -> None:
            nonlocal status, seconds
            if message["type"] == "http.response.start":
                status = message["status"]
                if _is_event_stream(message):  # which may be open for hours
                    seconds = time.perf_counter() - began
            await send(message)

        try:
            await self._app(scope, receive, send_recorded)
        finally:
            # The route's template, not the path: paths would make too many label values.
            route = getattr(scope.get("route"), "path", "other")
            metrics.HTTP_REQUESTS.labels(route, str(status)).inc()
            if seconds is None:
                seconds = time.perf_counter() - began
            metrics.HTTP_SECONDS.labels(route).observe(seconds)


def _is_event_stream(start: Message) -> bool:
    return any(value.startswith(b"text/event-stream") for _, value in start["headers"])
