"""Limits on connections that uvicorn does not have: sizes, times and numbers.

Uvicorn waits for ever for the head and the body of a request, and for a client that does not read
its response. So some hundred connections that send a byte now and then would be enough to use up
all that a process may open.
"""

from __future__ import annotations

import functools
from asyncio import TimerHandle, Transport
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from nextclick.services.api.problems import SECURITY_HEADERS, problem

MAX_PIPELINED = 100
"""Most requests of one connection that wait for the response before theirs."""


@dataclass(frozen=True)
class ConnectionLimits:
    """See the settings of the same names."""

    max_header_bytes: int
    request_seconds: float
    max_connections: int


class LimitedProtocol(HttpToolsProtocol):
    """One connection. Made by uvicorn, which takes the class that `limited_protocol` makes."""

    limits: ClassVar[ConnectionLimits]
    idle: ClassVar[dict[LimitedProtocol, None]]
    """The connections with no request in progress, the one that idles longest first."""

    _timer: TimerHandle | None = None
    _head_bytes = 0
    _in_body = False
    _parser_is_new = False

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Start the time for the first request; with too many connections close another one."""
        super().connection_made(transport)
        self._start_timer()
        self.idle[self] = None
        if len(self.connections) > self.limits.max_connections:
            # If all of them work on requests the newest has to go: this one.
            next(iter(self.idle)).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        self.idle.pop(self, None)
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more: answer the request that is whole, if there is one."""
        if self._in_body or not self._has_open_request():
            return False
        self.cycle.keep_alive = False
        return True

    def data_received(self, data: bytes) -> None:
        """Parse what came. Uvicorn's own method answers errors as plain text, and logs each."""
        self._unset_keepalive_if_required()
        if self._timer is None and not self._has_open_request():
            self._start_timer()
        if not self._in_body:
            self._head_bytes += len(data)
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._read_on_without_upgrade()
                continue
            except httptools.HttpParserError:
                self._refuse(HTTPStatus.BAD_REQUEST, "the request is no valid HTTP")
                return
            break
        if not self._in_body and self._head_bytes > self.limits.max_header_bytes:
            self._refuse_head()

    def _read_on_without_upgrade(self) -> None:
        """Read the body of a request that asks for an upgrade, and the requests behind it.

        Java's HTTP client asks for HTTP/2 in each first request. A server may leave it at HTTP/1.1
        (RFC 9110, 7.8), but the parser takes all that follows such a head for the other protocol:
        the body was lost, or read as a request. So another parser goes on behind a head that
        announces the same body.
        """
        framing = (b"content-length", b"transfer-encoding")
        announced = [b"%b: %b\r\n" % pair for pair in self.headers if pair[0] in framing]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._parser_is_new = True
        self.parser.feed_data(b"".join([b"POST / HTTP/1.1\r\n", *announced, b"\r\n"]))

    def on_message_begin(self) -> None:
        """See HttpToolsProtocol, as for the next two."""
        if not self._parser_is_new:
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Part of the target."""
        if not self._parser_is_new:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A line of the head."""
        if not self._parser_is_new:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Refuse a head that is too long, or names no host; else let uvicorn handle the request."""
        if self._parser_is_new:
            self._parser_is_new = False
            return
        length = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if length > self.limits.max_header_bytes:
            self._refuse_head()
            return
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            self._refuse(HTTPStatus.BAD_REQUEST, "the request must have the header Host once")
            return
        if len(self.pipeline) >= MAX_PIPELINED:
            # One read may hold ten thousand requests. The parser stops at an error only.
            raise ValueError("too many requests at once")
        self._in_body = True
        self.idle.pop(self, None)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """See HttpToolsProtocol; what follows a refused head is not read."""
        if self._in_body:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole: it is in time."""
        if self._in_body and not self.parser.should_upgrade():
            self._stop_timer()
            self._in_body = False
            self._head_bytes = 0
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """The connection idles until the next request."""
        super().on_response_complete()
        if not self._has_open_request() and not self.transport.is_closing():
            self.idle[self] = None

    def pause_writing(self) -> None:
        """The client does not read: its time runs."""
        super().pause_writing()
        self._start_timer()

    def resume_writing(self) -> None:
        """The client has read."""
        self._stop_timer()
        super().resume_writing()

    def _has_open_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_timer(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(self.limits.request_seconds, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self._has_open_request() or self._head_bytes == 0:
            self.transport.abort()
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the request did not arrive in time")

    def _refuse_head(self) -> None:
        limit = f"the head of a request has {self.limits.max_header_bytes} bytes at most"
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, limit)

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer with a problem document and close, unless a response is being sent."""
        if self.transport.is_closing():
            return
        if not self._has_open_request():
            self.transport.write(_refusal(status, detail))
        self.transport.close()


@functools.cache  # some texts, and an attacker may ask for them again and again
def _refusal(status: HTTPStatus, detail: str) -> bytes:
    """A whole response, after which the connection is closed."""
    response = problem(status, detail, headers={**SECURITY_HEADERS, "Connection": "close"})
    lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
    lines += [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join([*lines, b"", bytes(response.body)])


def limited_protocol(limits: ConnectionLimits) -> type[LimitedProtocol]:
    """A protocol class for one server: uvicorn gives its instances no settings of ours."""
    members: dict[str, Any] = {"limits": limits, "idle": {}}
    return type("LimitedProtocol", (LimitedProtocol,), members)
