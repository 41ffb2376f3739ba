from __future__ import annotations

from dataclasses import dataclass, field
from http.cookies import SimpleCookie

import pytest
from starlette.requests import HTTPConnection
from starlette.responses import Response

from nextclick.services.api.page.sign_in import (
    COOKIE,
    GUESSES_PER_MINUTE,
    MAX_SESSIONS,
    SESSION_SECONDS,
    SignIn,
)
from nextclick.services.api.problems import Rejected


@dataclass
class Door:
    """A sign-in whose key and clock the test sets."""

    key: str = "sesame"
    now: float = 0.0
    sign_in: SignIn = field(init=False)

    def __post_init__(self) -> None:
        self.sign_in = SignIn(lambda given: given == self.key, clock=lambda: self.now)

    def open(self, key: str, *, secure: bool = False) -> Response:
        return self.sign_in.open(key, secure=secure, path="/page")


@pytest.fixture
def door() -> Door:
    return Door()


def cookie(answer: Response) -> SimpleCookie:
    return SimpleCookie(answer.headers["set-cookie"])


def request(token: str = "", key: str = "") -> HTTPConnection:
    headers = [(b"cookie", f"{COOKIE}={token}".encode())] if token else []
    headers += [(b"x-api-key", key.encode())] if key else []
    return HTTPConnection({"type": "http", "headers": headers})


def test_without_a_key_everybody_may_see_the_page() -> None:
    assert SignIn(None).allows(request())


def test_a_session_is_opened_by_the_key_alone(door: Door) -> None:
    assert door.open("Sesame").status_code == 401
    opened = cookie(door.open("sesame"))[COOKIE]
    assert (opened["httponly"], opened["samesite"], opened["path"]) == (True, "strict", "/page")
    assert not opened["secure"]
    assert cookie(door.open("sesame", secure=True))[COOKIE]["secure"]
    assert door.sign_in.allows(request(opened.value))
    assert door.sign_in.allows(request(key="sesame"))
    for wrong in (request(), request("x" * 43), request(key="Sesame")):
        with pytest.raises(Rejected):
            door.sign_in.check(wrong)


def test_a_session_ends_with_its_time_its_key_or_by_hand(door: Door) -> None:
    first, second, third = (cookie(door.open("sesame"))[COOKIE].value for _ in range(3))
    door.sign_in.close(request(first))
    assert not door.sign_in.allows(request(first))
    assert door.sign_in.allows(request(second))
    door.now = SESSION_SECONDS
    assert not door.sign_in.allows(request(second))
    door.now = 0
    door.key = "changed"
    assert not door.sign_in.allows(request(third))


def test_keys_cannot_be_guessed(door: Door) -> None:
    for _ in range(GUESSES_PER_MINUTE):
        assert door.open("x").status_code == 401
        door.now += 1
    refused = door.open("sesame")
    assert refused.status_code == 429
    door.now += int(refused.headers["retry-after"])
    assert door.open("sesame").status_code == 204


def test_memory_is_bounded(door: Door) -> None:
    for _ in range(MAX_SESSIONS + 10):
        door.open("sesame")
    assert len(door.sign_in._sessions) == MAX_SESSIONS
