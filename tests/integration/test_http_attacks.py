"""The HTTP service as a process of its own, under attack. Long."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import re
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nextclick.shared.runtime.settings import PREFIX
from tests.conftest import Launch
from tests.integration.traffic import publish_model
from tests.waiting import until

pytestmark = pytest.mark.long

KEY = secrets.token_hex(16)
LIST = (
    b"POST /recommendations HTTP/1.1\r\nhost: x\r\nx-api-key: %b\r\ncontent-type: " % KEY.encode()
)
LIST += b'application/json\r\ncontent-length: 18\r\n\r\n{"history": ["1"]}'
SEEDS = [
    LIST,
    LIST.replace(b"/recommendations", b"/recommendations/batch"),
    LIST.replace(b'{"history": ["1"]}', b'{"requests": [{}]}'),
    LIST.replace(b"POST /recommendations", b"GET /recommendations/u?k=3&category=odd"),
    LIST.replace(b"POST /recommendations", b"GET /explain?history=1&history=2"),
    LIST.replace(b"POST /recommendations", b"GET /users/u/session"),
    LIST.replace(b"POST /recommendations", b"GET /models"),
    LIST.replace(b"POST /recommendations", b"PUT /denied/7"),
    LIST.replace(b"POST /recommendations", b"GET /docs/files/../../app.py"),
    LIST.replace(b"POST /recommendations", b"GET /..%2f..%2fetc/passwd"),
    LIST.replace(b"content-length: 18", b"transfer-encoding: chunked"),
    LIST.replace(b"x-api-key", b"x-api-kez"),
]
LEAKS = re.compile(
    rb"Traceback|\.py|site-packages|/tmp/|/opt/|nextclick\.\w+\.|0x[0-9a-f]{8}|root:"
)


@pytest.fixture
def address(launch: Launch, tmp_path: Path) -> Iterator[tuple[str, int]]:
    publish_model(tmp_path / "registry", seed=1)
    settings = {
        "API__PORT": "0",
        "API__KEY": KEY,
        "API__WRONG_KEYS_PER_MINUTE": "1000000",
        "API__REQUEST_SECONDS": "5",
    }
    launch("api", **{f"{PREFIX}{name}": value for name, value in settings.items()})
    log = tmp_path / "api-0.log"
    until(lambda: "serving model" in log.read_text(), "it serves", 60)
    found = re.search(r"listening on http://([\d.]+):(\d+)", log.read_text())
    assert found is not None
    yield found[1], int(found[2])
    assert "Traceback" not in log.read_text()


def mangled(request: bytes, chance: random.Random) -> bytes:
    """A request with some bytes changed, removed, doubled or put in."""
    wrong = bytearray(request)
    for _ in range(chance.randint(0, 4)):
        place = chance.randrange(len(wrong))
        match chance.randrange(5):
            case 0:
                wrong[place] = chance.randrange(256)
            case 1:
                del wrong[place : place + chance.randint(1, 8)]
            case 2:
                wrong[place:place] = wrong[place : place + chance.randint(1, 64)]
            case 3:
                wrong[place:place] = chance.choice(
                    [b"\r\n", b"\0", b"%00", b"\xff", b"../", b"\xf0"]
                )
            case _:
                wrong[place:place] = b"9" * chance.randint(1, 5000)
    return bytes(wrong)


def answer(address: tuple[str, int], request: bytes) -> bytes:
    """What comes back for a request after which nothing more is sent."""
    received = b""
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=20) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(65_536):
            received += part
    return received


def test_ten_thousand_mangled_requests(address: tuple[str, int]) -> None:
    chance = random.Random(0)
    statuses: Counter[int] = Counter()
    for _ in range(10_000):
        request = mangled(chance.choice(SEEDS), chance)
        response = answer(address, request)
        assert not LEAKS.search(response), (request, response)
        for status in map(int, re.findall(rb"HTTP/1\.1 (\d{3})", response)):
            statuses[status] += 1
            assert status < 500, (request, response)
    print(dict(statuses))
    assert statuses.keys() >= {200, 400, 401, 404, 422}
    assert answer(address, LIST).startswith(b"HTTP/1.1 200")


def request(method: str, target: str, *lines: str, body: bytes = b"") -> bytes:
    """A request with the key, after which the connection is to be closed."""
    head = [f"{method} {target} HTTP/1.1", f"x-api-key: {KEY}", "connection: close", *lines]
    if not any(line.lower().startswith("host:") for line in lines):
        head.append("host: x")
    if body:
        head += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def post(body: bytes, target: str = "/recommendations", *lines: str) -> bytes:
    return request("POST", target, *lines, body=body)


SMUGGLED = request("PUT", "/denied/smuggled")
CHUNK = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
ODD_TEXTS = [
    "%00",
    "a%00b",
    "%ff%fe",
    "%ed%a0%80",
    "%F0%9F%98%80",
    "%E2%80%AE",
    "a" * 9000,
    "%0d%0a",
]
ODD_TEXTS += [
    "%0d%0aset-cookie:%20evil=1",
    "'%20OR%201=1--",
    "${jndi:ldap://x}",
    "{{7*7}}",
    "%3Cscript%3E",
]
BAD_PATHS = [
    "../routes.py",
    "../../app.py",
    "..%2froutes.py",
    "..%2f..%2fapp.py",
    "%2e%2e/routes.py",
]
BAD_PATHS += ["..%5croutes.py", "....//routes.py", "%252e%252e%252froutes.py", "..%c0%afroutes.py"]
BAD_PATHS += [
    "..;/routes.py",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "main.js%00.png",
    "%00",
    "a" * 5000,
]
BAD_PATHS += ["main.js/", "./", "uPlot", "uPlot/..%2f..%2froutes.py", "CON", "main.js::$DATA"]

ATTACKS: dict[str, list[bytes]] = {
    "paths": [
        *(request("GET", f"/page/static/{path}") for path in BAD_PATHS),
        *(request("GET", f"/docs/files/{path}") for path in BAD_PATHS),
        *(request("GET", path) for path in ("/../models", "//models", "/./models", "/.git/config")),
        *(
            request("GET", path)
            for path in ("/.env", "/server-status", "/actuator", "/%2e%2e/models")
        ),
    ],
    "smuggling": [
        *(
            request("POST", "/recommendations", *lines) + body
            for lines, body in [
                (("content-length: 4", "transfer-encoding: chunked"), CHUNK),
                (("transfer-encoding: chunked", "content-length: 4"), CHUNK),
                (("content-length: 5", "transfer-encoding : chunked"), CHUNK),
                (("content-length: 5", "transfer-encoding: xchunked"), CHUNK),
                (("content-length: 5", "transfer-encoding: chunked, identity"), CHUNK),
                (("content-length: 5", "transfer-encoding: identity, chunked"), CHUNK),
                (("transfer-encoding: chunked", "transfer-encoding: x"), b"0\r\n\r\n" + SMUGGLED),
                (("transfer-encoding:\x0bchunked", "content-length: 0"), CHUNK),
                (("transfer-encoding: chunked",), b"0;\n\r\n" + SMUGGLED),
                (("transfer-encoding: chunked",), b"fffffffffffffffff\r\n" + SMUGGLED),
                (("transfer-encoding: chunked",), b"-1\r\n\r\n" + SMUGGLED),
                (("content-length: 0", "content-length: 300"), SMUGGLED),
                (("content-length: +0",), SMUGGLED),
                (("content-length: 0x0",), SMUGGLED),
                (("content-length: 0, 300",), SMUGGLED),
                (("content-length: 0\rx: y",), SMUGGLED),
                (("content-length: 99999999999999999999",), SMUGGLED),
                ((f"content-length: {len(SMUGGLED)}", "upgrade: h2c"), SMUGGLED),
                ((f"content-length: {len(SMUGGLED)}", "expect: 100-continue"), SMUGGLED),
            ]
        ),
        request(
            "POST", "/recommendations", f"content-length: {len(SMUGGLED)}", "upgrade: h2c"
        ).replace(b"connection: close", b"connection: upgrade")
        + SMUGGLED,
        request("POST", "/recommendations", "content-length: 0").replace(b"close", b"close, x")
        + SMUGGLED,
    ],
    "methods": [
        *(
            request(method, target)
            for method in ("TRACE", "TRACK", "PROPFIND", "DEBUG", "get", "PATCH", "A" * 3000)
            for target in ("/models", "/", "/denied/smuggled")
        ),
        request("CONNECT", "x:443"),
        request("CONNECT", "/models"),
        request("OPTIONS", "*"),
        request("GET", "http://evil.example/models"),
        request("GET", "http://evil.example:99999/models"),
        request("GET", "http://[::1/models"),
        request("POST", "/denied/smuggled", "x-http-method-override: PUT", "content-length: 0"),
        request(
            "POST", "/denied/smuggled?_method=PUT", "x-method-override: PUT", "content-length: 0"
        ),
    ],
    "headers": [
        *(
            request("GET", "/models", f"host: {host}")
            for host in (
                "evil.example",
                "x:99999",
                "x:a",
                "a b",
                "../x",
                "",
                "x, y",
                "[::1",
                "\xff",
            )
        ),
        *(
            request("GET", "/models/", f"{name}: evil.example")
            for name in (
                "x-forwarded-host",
                "x-host",
                "x-original-url",
                "x-rewrite-url",
                "forwarded",
            )
        ),
        *(
            request("GET", "/page/static/main.js", f"range: {span}")
            for span in (
                "bytes=0-0",
                "bytes=-1",
                "bytes=9999999-",
                "bytes=5-1",
                "bytes=a-b",
                "bytes=-",
            )
        ),
        request("GET", "/page/static/main.js", "range: bytes=" + ",".join(["0-0"] * 1500)),
        request(
            "GET", "/page/static/main.js", "if-range: x", "range: bytes=0-", "if-none-match: *"
        ),
        request("GET", "/page/static/main.js", "if-modified-since: yesterday"),
        request("GET", "/models", "if-none-match: " + '"' * 5000),
        request("GET", "/models", "authorization: Bearer " + "a" * 5000, "cookie: " + "=;" * 2000),
        request(
            "GET", "/models", "traceparent: 00-zz-zz-01", "accept: ;;;", "accept-encoding: q=x"
        ),
        request("GET", "/docs", "cookie: session=../../etc/passwd; nextclick=%00"),
    ],
    "texts": [
        request(method, target.format(text))
        for text in ODD_TEXTS
        for method, target in [
            ("GET", "/recommendations/{}"),
            ("GET", "/recommendations/u?category={}"),
            ("GET", "/recommendations/u?k={}"),
            ("GET", "/recommendations/u?exclude_seen={}"),
            ("GET", "/users/{}/session"),
            ("GET", "/explain?user_id={}"),
            ("GET", "/explain?history={}"),
            ("GET", "/models?{}"),
            ("DELETE", "/denied/{}"),
        ]
    ],
    "bodies": [
        *(
            post(body, target)
            for target in ("/recommendations", "/recommendations/batch", "/clicks", "/page/list")
            for body in [
                b"[" * 20_000,
                b'{"history":' * 5_000,
                b'{"history": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
                b'{"k": 1e999, "history": []}',
                b'{"k": ' + b"9" * 20_000 + b', "history": []}',
                b'{"history": [' + b"1" * 5_000 + b"]}",
                b'{"user_id": ' + b"1" * 5_000 + b', "item_id": "1"}',
                b'{"history": ["1"], "history": ["2"], "k": NaN}',
                b'{"history": [Infinity, -0, 1e-400]}',
                b'{"history": ["\\ud800"], "user_id": "\\udfff", "item_id": "\\u0000"}',
                b'{"history": ["\xff"]}',
                b"\xef\xbb\xbf{}",
                '{"history": ["1"]}'.encode("utf-16"),
                b'{"__proto__": {"k": 1}, "constructor": 1, "history": {"$gt": ""}}',
                b'{"requests": [' + b"{}," * 10_000 + b"{}]}",
                b"null",
                b'"' + b"a" * 50_000 + b'"',
            ]
        ),
        post(gzip.compress(b" " * 30_000_000), "/recommendations", "content-encoding: gzip"),
        post(b"{}", "/recommendations", "content-encoding: br, gzip, deflate"),
        request("POST", "/clicks", "content-type: application/xml", "content-length: 6")
        + b"<!x []",
        request(
            "POST", "/clicks", "content-type: multipart/form-data; boundary=", "content-length: 2"
        )
        + b"--",
    ],
}


def test_what_a_scanner_tries(address: tuple[str, int]) -> None:
    """Nothing fails, leaks or gets through; docs/http.md has the list."""
    for attack, requests in ATTACKS.items():
        statuses: Counter[int] = Counter()
        for sent in requests:
            response = answer(address, sent)
            assert not LEAKS.search(response), (sent[:300], response)
            assert not re.search(rb"(?mi)^(set-cookie|location):|evil\.example", response), sent[
                :300
            ]
            for status in map(int, re.findall(rb"HTTP/1\.1 (\d{3})", response)):
                statuses[status] += 1
                assert status < 500, (sent[:300], response)
        print(attack, len(requests), dict(sorted(statuses.items())))
    assert b"smuggled" not in answer(address, request("GET", "/denied"))
    assert answer(address, SMUGGLED).startswith(b"HTTP/1.1 204")
    assert b"smuggled" in answer(address, request("GET", "/denied")), "it would have been seen"


def test_without_a_key_only_the_page_s_files_are_open(address: tuple[str, int]) -> None:
    for path in ["main.js", *BAD_PATHS]:
        for folder in ("/page/static/", "/page/static/../../", "/page/static/%2e%2e/%2e%2e/"):
            sent = request("GET", folder + path).replace(KEY.encode(), b"guessed")
            status = answer(address, sent)[9:12]
            public = folder == "/page/static/" and path.strip("/") == "main.js"
            assert status == b"200" if public else status[:1] == b"4", folder + path


def test_a_broken_last_event_id_is_ignored(address: tuple[str, int]) -> None:
    for last in ("-1", "9" * 4000, "abc\xff", ""):
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(request("GET", "/page/events", f"last-event-id: {last}"))
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200"), last


def test_five_hundred_slow_connections_slow_nobody_down(address: tuple[str, int]) -> None:
    quiet = p99_ms(address)
    stop = threading.Event()
    slow: list[socket.socket] = []

    def dribble() -> None:
        while not stop.is_set():
            while len(slow) < 500:
                slow.append(socket.create_connection(address))
            for place, connection in enumerate(slow):
                try:
                    connection.send(b"GET / HTTP/1.1\r\nhost: x\r\n" if place % 2 else b"G")
                except OSError:  # cut off: it tries again
                    connection.close()
                    slow[place] = socket.create_connection(address)
            stop.wait(1)

    thread = threading.Thread(target=dribble)
    thread.start()
    try:
        until(lambda: len(slow) == 500, "500 slow connections")
        attacked = p99_ms(address)
    finally:
        stop.set()
        thread.join()
        for connection in slow:
            connection.close()
    print(f"p99 {quiet:.1f} ms alone, {attacked:.1f} ms beside 500 slow connections")
    assert attacked < 2 * quiet + 2


def p99_ms(address: tuple[str, int], seconds: float = 8) -> float:
    """Of lists, over one connection."""
    taken: list[float] = []
    end = time.monotonic() + seconds
    with socket.create_connection(address, timeout=10) as connection:
        while time.monotonic() < end:
            began = time.perf_counter()
            connection.sendall(LIST)
            received = connection.recv(65_536)
            while json_is_cut(received):
                received += connection.recv(65_536)
            taken.append(time.perf_counter() - began)
            assert received.startswith(b"HTTP/1.1 200"), received
    return 1000 * float(np.percentile(taken, 99))


def json_is_cut(response: bytes) -> bool:
    try:
        json.loads(response.partition(b"\r\n\r\n")[2])
    except ValueError:
        return True
    return False
