"""The limits on connections, of a real server on a real socket."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from nextclick.services.api.http_protocol import MAX_PIPELINED, ConnectionLimits
from tests.unit.services.api.server import serving

QUICK = ConnectionLimits(max_header_bytes=1024, request_seconds=0.3, max_connections=5)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body of the request; with a megabyte for /large."""
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    if scope["path"] == "/large":
        body = bytes(8_000_000)
    length = str(len(body)).encode()
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]}
    await send(start)
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with serving(app, QUICK) as where:
        yield where


@contextlib.contextmanager
def connected(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=10) as connection:
        yield connection


def all_of(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            received += part
    return received


def problem(response: bytes) -> dict[str, Any]:
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    assert b"x-content-type-options: nosniff" in head.lower()
    assert b"connection: close" in head.lower()
    found: dict[str, Any] = json.loads(body)
    assert head.startswith(b"HTTP/1.1 %d " % found["status"])
    return found


def answer(address: tuple[str, int], request: bytes) -> bytes:
    with connected(address) as connection:
        connection.sendall(request)
        return all_of(connection)


def test_requests_are_answered_one_after_the_other(address: tuple[str, int]) -> None:
    post = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nab"
    last = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1\r\n\r\nc"
    found = answer(address, post * 20 + last)
    assert found.count(b"HTTP/1.1 200 OK") == 21
    assert found.endswith(b"\r\n\r\nc")
    assert answer(address, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 OK")


def test_the_requests_that_wait_on_a_connection_are_bounded() -> None:
    """One read may hold ten thousand; all of them were made at once, 0.2 s of the event loop."""
    limits = ConnectionLimits(max_header_bytes=1024, request_seconds=5, max_connections=5)
    get = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    last = get.replace(b"host: x", b"host: x\r\nconnection: close")
    with serving(app, limits) as where:
        assert answer(where, get * MAX_PIPELINED + last).count(b"HTTP/1.1 200 OK") > MAX_PIPELINED
        refused = answer(where, get * 3 * MAX_PIPELINED)
    assert refused.count(b"HTTP/1.1 200 OK") <= MAX_PIPELINED + 1


def test_who_sends_no_more_is_answered(address: tuple[str, int]) -> None:
    with connected(address) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nab")
        connection.shutdown(socket.SHUT_WR)
        assert all_of(connection).endswith(b"\r\n\r\nab")
    with connected(address) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nab")
        connection.shutdown(socket.SHUT_WR)
        assert all_of(connection) == b""


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",  # TLS
        b"GET\r\n\r\n",
        b"NONSENSE / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nbad header: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nfolded: a\r\n b\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: x\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http_is_refused(address: tuple[str, int], request_: bytes) -> None:
    with connected(address) as connection:
        connection.sendall(request_)
        first = all_of(connection)
    assert first == b"" or problem(first)["status"] == 400


def test_nothing_is_smuggled_behind_a_refused_request(address: tuple[str, int]) -> None:
    smuggled = b"POST /large HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
    both = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n"
    found = answer(address, both + b"0\r\n\r\n" + smuggled)
    assert problem(found)["status"] == 400
    assert found.count(b"HTTP/1.1") == 1


def test_an_upgrade_is_not_made(address: tuple[str, int]) -> None:
    upgrade = (
        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n"
    )
    assert answer(address, upgrade).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("pieces", [1, 2, 30], ids=lambda pieces: f"{pieces} pieces")
@pytest.mark.parametrize("framing", ["content-length", "chunked", "none"])
def test_a_request_that_asks_for_an_upgrade_keeps_its_body(
    address: tuple[str, int], framing: str, pieces: int
) -> None:
    """Java's HTTP client asks so for HTTP/2. What it sends as body is no request of its own."""
    body = b"DELETE / HTTP/1.1\r\nhost: x\r\n\r\n"
    head, sent, returned = {
        "content-length": (b"content-length: %d\r\n" % len(body), body, body),
        "chunked": (
            b"transfer-encoding: chunked\r\n",
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
            body,
        ),
        "none": (b"", b"", b""),
    }[framing]
    upgrade = (
        b"POST / HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
    )
    asked = upgrade + b"http2-settings: AAEAAEAAAAIAAAAB\r\n" + head + b"\r\n" + sent
    last = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 4\r\n\r\nlast"
    whole = asked * 3 + last
    size = -(-len(whole) // pieces)
    with connected(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(whole), size):
            connection.sendall(whole[start : start + size])
        found = all_of(connection)
    assert [bytes(part.partition(b"\r\n\r\n")[2]) for part in found.split(b"HTTP/1.1 200 OK")] == [
        b"",
        *[returned] * 3,
        b"last",
    ]


def test_a_long_head_is_refused(address: tuple[str, int]) -> None:
    for head in (
        b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nlong: " + b"a" * 2000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 400 + b"\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nendless: " + b"a" * 2000,
    ):
        assert problem(answer(address, head))["status"] == 431


def test_a_request_has_to_arrive_in_time(address: tuple[str, int]) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n"
    assert answer(address, b"") == b""
    assert problem(answer(address, head[:-4]))["status"] == 408
    assert answer(address, head + b"ab") == b""


def test_bytes_now_and_then_do_not_lengthen_the_time(address: tuple[str, int]) -> None:
    began = time.monotonic()
    with connected(address) as connection, contextlib.suppress(OSError):
        for byte in b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 100:
            connection.send(bytes([byte]))
            time.sleep(0.05)
        pytest.fail("it was listened to all that time")
    assert time.monotonic() - began < 3


def test_who_does_not_read_is_cut_off(address: tuple[str, int]) -> None:
    with connected(address) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
        connection.recv(1)
        time.sleep(1)  # a client that does nothing: there is nothing to wait for
        assert len(all_of(connection)) < 8_000_000


def test_the_longest_idle_connection_gives_way() -> None:
    patient = ConnectionLimits(max_header_bytes=1024, request_seconds=60, max_connections=5)
    get = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    with serving(app, patient) as address, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connected(address)) for _ in range(5)]
        for connection in idle:
            connection.sendall(b"GET / HT")  # it never ends
        with connected(address) as good:
            good.sendall(get)
            assert good.recv(65_536).startswith(b"HTTP/1.1 200 OK")
            assert idle[0].recv(1) == b"", "the first one had to go"
            stack.enter_context(connected(address)).sendall(get)
            assert all_of(idle[1]) == b""
            idle[4].sendall(get[8:])
            assert idle[4].recv(65_536).startswith(b"HTTP/1.1 200 OK")
