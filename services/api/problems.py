"""Error responses: problem documents (RFC 9457), for every kind of error."""

from __future__ import annotations

import logging
from collections.abc import Collection
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match

from nextclick.services.api.messages import Problem
from nextclick.shared.errors import BadItem, NextclickError, Unavailable
from nextclick.shared.runtime.masking import redact

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

_MAX_ERRORS = 20
"""Most invalid fields that are named: a request of 64 kB may have thousands."""

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Of every response that does not say otherwise: nothing is guessed, framed, kept or loaded."""


class Rejected(Exception):
    """A request that is refused with an HTTP status and a reason."""

    def __init__(
        self, status: HTTPStatus, detail: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = headers

    def response(self) -> Response:
        """The problem document."""
        return problem(self.status, str(self), headers=self.headers)


def problem(
    status: int, detail: str, errors: list[str] | None = None, headers: dict[str, str] | None = None
) -> Response:
    """Make an error response."""
    title = HTTPStatus(status).phrase
    body = Problem(title=title, status=status, detail=detail, errors=errors or [])
    return Response(body.model_dump_json(), status, headers, MEDIA_TYPE)


def install(app: FastAPI, secrets: Collection[str]) -> None:
    """Turn every error of an app into a problem document, with secrets masked."""

    def unavailable(_: Request, error: Exception) -> Response:
        detail = redact(secrets, str(error))
        if not isinstance(error, Unavailable):  # a retry will not help
            log.error("a request failed: %s", detail)
        return problem(503, detail, headers={"Retry-After": "1"})

    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Rejected, _rejected)
    app.add_exception_handler(NextclickError, unavailable)
    app.add_exception_handler(BadItem, lambda _, error: problem(422, f"the item: {error}"))
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _client_left)
    app.add_exception_handler(Exception, _internal_error)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of an operation's error responses."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in statuses
    }


def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Without the input: it can be long, and the client knows it.
    errors = error.errors()
    lines = [
        f"{'.'.join(map(str, e['loc']))[:200]}: {e['msg'].removeprefix('Value error, ')[:200]}"
        for e in errors[:_MAX_ERRORS]
    ]
    if len(errors) > _MAX_ERRORS:
        lines.append(f"{len(errors) - _MAX_ERRORS} more")
    return problem(422, "the request is not what this operation takes", lines)


def _rejected(_: Request, error: Exception) -> Response:
    assert isinstance(error, Rejected)
    return error.response()


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(sorted(_allowed_methods(request)))
    return problem(error.status_code, error.detail, headers=headers)


def _client_left(_: Request, error: Exception) -> Response:
    # Nobody reads this; without it every such client would leave a traceback in the log.
    return problem(400, "the request ended before its body was whole")


def _allowed_methods(request: Request) -> set[str]:
    """The methods of a path. Starlette knows those of one route; a path may have several."""
    found: set[str] = set()
    for route in request.app.routes:
        if route.matches(request.scope)[0] != Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return found | ({"HEAD"} if "GET" in found else set())


def _internal_error(_: Request, error: Exception) -> Response:
    # Uvicorn logs the traceback. Starlette answers outside of all middleware.
    return problem(500, "a bug, which is noted in the service's log", headers=SECURITY_HEADERS)
