from __future__ import annotations

from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path

import pytest
from starlette.requests import HTTPConnection
from starlette.responses import Response

from nextclick.services.api.access import READ_SECONDS, Access, Keys
from nextclick.services.api.page.sign_in import COOKIE, MAX_SESSIONS, SESSION_SECONDS, SignIn
from nextclick.services.api.problems import Rejected


@dataclass
class Door:
    """A sign-in whose key and clock the test sets."""

    file: Path
    now: float = 0.0
    access: Access = field(init=False)
    sign_in: SignIn = field(init=False)

    def __post_init__(self) -> None:
        self.change_key("sesame")
        clock = lambda: self.now  # noqa: E731
        self.access = Access(Keys("", str(self.file), clock), clock=clock)
        self.sign_in = SignIn(self.access, clock)

    def change_key(self, key: str) -> None:
        self.file.write_text(key)
        self.now += READ_SECONDS

    def open(self, key: str, *, scheme: str = "http") -> Response:
        return self.sign_in.open(key, request(scheme=scheme))

    def lets_in(self, connection: HTTPConnection) -> bool:
        try:
            self.access.check(connection.scope)
        except Rejected:
            return False
        return True


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path / "keys")


def token_of(answer: Response) -> str:
    return SimpleCookie(answer.headers["set-cookie"])[COOKIE].value


def request(
    token: str = "", key: str = "", bearer: str = "", *, scheme: str = "http"
) -> HTTPConnection:
    headers = [(b"host", b"shop")]
    headers += [(b"cookie", f"{COOKIE}={token}".encode())] if token else []
    headers += [(b"x-api-key", key.encode())] if key else []
    headers += [(b"authorization", f"Bearer {bearer}".encode())] if bearer else []
    scope = {"type": "http", "path": "/page/events", "method": "GET", "client": ("10.0.0.1", 1)}
    return HTTPConnection({**scope, "headers": headers, "scheme": scheme, "query_string": b""})


def test_without_a_key_everybody_may_see_the_page() -> None:
    assert SignIn(Access(Keys(""))).allows(request())


def test_a_session_is_opened_by_the_key_alone(door: Door) -> None:
    with pytest.raises(Rejected, match="the key is wrong"):
        door.open("Sesame")
    cookie = SimpleCookie(door.open("sesame").headers["set-cookie"])[COOKIE]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "strict", "/")
    assert not cookie["secure"]
    assert SimpleCookie(door.open("sesame", scheme="https").headers["set-cookie"])[COOKIE]["secure"]
    for right in (request(cookie.value), request(key="sesame"), request(bearer="sesame")):
        assert door.lets_in(right)
        assert door.sign_in.allows(right)
    for wrong in (request(), request("x" * 43), request(key="Sesame")):
        assert not door.lets_in(wrong)
        assert not door.sign_in.allows(wrong)


def test_a_session_ends_with_its_time_its_key_or_by_hand(door: Door) -> None:
    first, second = (token_of(door.open("sesame")) for _ in range(2))
    door.sign_in.close(request(first))
    assert not door.lets_in(request(first))
    assert door.lets_in(request(second))
    door.now += SESSION_SECONDS
    assert not door.lets_in(request(second))
    third = token_of(door.open("sesame"))
    assert door.lets_in(request(third))
    door.change_key("changed")
    assert not door.lets_in(request(third))


def test_guesses_on_the_form_count_as_all_others(door: Door) -> None:
    for _ in range(10):
        with pytest.raises(Rejected, match="wrong"):
            door.open("x")
    with pytest.raises(Rejected, match="too many wrong keys"):
        door.open("sesame")
    assert not door.lets_in(request(key="sesame"))


def test_memory_is_bounded(door: Door) -> None:
    for _ in range(MAX_SESSIONS + 10):
        door.open("sesame")
    assert len(door.sign_in._sessions) == MAX_SESSIONS
