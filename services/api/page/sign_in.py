"""The page's sign-in: the API key is exchanged for a session, since events carry no header.

A session is an opaque random token in a cookie that scripts cannot read; the server keeps it in
memory, with the key it was opened by. When that key is no longer accepted, the session ends.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from http import HTTPStatus

from starlette.requests import HTTPConnection
from starlette.responses import Response

from nextclick.services.api.problems import Rejected, problem

COOKIE = "nextclick_page"
SESSION_SECONDS = 12 * 3600.0
MAX_SESSIONS = 10_000
GUESSES_PER_MINUTE = 10
"""Wrong keys that are looked at per minute, from all addresses together."""


class SignIn:
    """Opens and checks sessions. Used by the event loop alone."""

    def __init__(
        self, is_key: Callable[[str], bool] | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """is_key: compares in constant time; None: no key is set, everybody may see the page."""
        self._is_key = is_key
        self._clock = clock
        self._sessions: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._wrong: deque[float] = deque(maxlen=GUESSES_PER_MINUTE)

    def open(self, key: str, *, secure: bool, path: str) -> Response:
        """The answer to a key: a session's cookie for `path`, 401, or 429 after many wrong keys."""
        now = self._clock()
        if len(self._wrong) == GUESSES_PER_MINUTE and now - self._wrong[0] < 60:
            wait = str(int(61 - (now - self._wrong[0])))
            return problem(429, "too many wrong keys", headers={"Retry-After": wait})
        if self._is_key is None or not self._is_key(key):
            self._wrong.append(now)
            return problem(401, "that is not the key")
        token = secrets.token_urlsafe(32)
        self._sessions[token] = key, now + SESSION_SECONDS
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        answer = Response(status_code=204)
        answer.set_cookie(
            COOKIE,
            token,
            max_age=int(SESSION_SECONDS),
            path=path,
            secure=secure,
            httponly=True,
            samesite="strict",
        )
        return answer

    def close(self, connection: HTTPConnection) -> None:
        """End the session of a request."""
        self._sessions.pop(connection.cookies.get(COOKIE, ""), None)

    def allows(self, connection: HTTPConnection) -> bool:
        """Whether a request may see data: it has an open session, or the key itself."""
        if self._is_key is None or self._is_key(connection.headers.get("x-api-key", "")):
            return True
        token = connection.cookies.get(COOKIE, "")
        key, until = self._sessions.get(token, ("", 0.0))
        if token and self._clock() < until and self._is_key(key):
            return True
        self._sessions.pop(token, None)
        return False

    def check(self, connection: HTTPConnection) -> None:
        """Raise Rejected if a request may not see data."""
        if not self.allows(connection):
            raise Rejected(HTTPStatus.UNAUTHORIZED, "sign in: the API key is needed")
