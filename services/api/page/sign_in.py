"""The page's sign-in: the API key is exchanged for a session, since events carry no header.

A session is an opaque random token in a cookie that scripts cannot read; the server keeps it in
memory, with the key it was opened by. When that key is no longer accepted, the session ends.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.requests import HTTPConnection
from starlette.responses import Response

from nextclick.services.api.access import Access, client_address, key_of

COOKIE = "nextclick_page"
SESSION_SECONDS = 12 * 3600.0
MAX_SESSIONS = 10_000


class SignIn:
    """Opens and checks sessions. Used by the event loop alone."""

    def __init__(self, access: Access, clock: Callable[[], float] = time.monotonic) -> None:
        """Requests with an open session are let in by `access` from now on."""
        self._access = access
        self._clock = clock
        self._sessions: OrderedDict[str, tuple[str, float]] = OrderedDict()
        access.is_signed_in = lambda scope: self.allows(HTTPConnection(scope))

    def open(self, key: str, connection: HTTPConnection) -> Response:
        """The answer to a key: a session's cookie. Raises Rejected as Access.check_key."""
        self._access.check_key(key, client_address(connection.scope))
        token = secrets.token_urlsafe(32)
        self._sessions[token] = key, self._clock() + SESSION_SECONDS
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        answer = Response(status_code=204)
        answer.set_cookie(
            COOKIE,
            token,
            max_age=int(SESSION_SECONDS),
            path=connection.scope.get("root_path", "") or "/",  # for /docs, too
            secure=connection.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return answer

    def close(self, connection: HTTPConnection) -> None:
        """End the session of a request."""
        self._sessions.pop(connection.cookies.get(COOKIE, ""), None)

    def allows(self, connection: HTTPConnection) -> bool:
        """Whether a request may see data now: no key is needed, or it has one or a session.

        A wrong key is not counted: `Access.check_key` must have been asked about it before.
        """
        accepts = self._access.accepts
        if not self._access.needs_key:
            return True
        given = key_of(connection.scope)
        if given is not None and accepts(given):
            return True
        token = connection.cookies.get(COOKIE, "")
        key, until = self._sessions.get(token, ("", 0.0))
        if token and self._clock() < until and accepts(key):
            return True
        self._sessions.pop(token, None)
        return False
