"""Routes for what is asked most often: JSON in, JSON out, with as little else as possible."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Iterator
from http import HTTPStatus
from typing import Any, cast, get_type_hints

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from nextclick.services.api.problems import Rejected

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class JsonRoute(APIRoute):
    """A route whose function returns a model, and takes `body` and maybe `query`, which are models.

    It may also take the `request`. The OpenAPI document is made from the function, as for every
    route. But pydantic reads the bytes of the request and writes those of the response itself,
    without Python objects in between.
    """

    def get_route_handler(self) -> Handler:
        """What answers a request."""
        types = get_type_hints(self.endpoint)
        body: type[BaseModel] = types["body"]
        query: type[BaseModel] | None = types.get("query")
        status = self.status_code or HTTPStatus.OK

        async def handle(request: Request) -> Response:
            require_json(request)
            arguments: dict[str, object] = {"request": request} if "request" in types else {}
            with _wrong_in("body"):
                arguments["body"] = body.model_validate_json(await request.body())
            if query is not None:
                with _wrong_in("query"):
                    arguments["query"] = query.model_validate_strings(dict(request.query_params))
            answer: BaseModel = await self.endpoint(**arguments)
            content = answer.__pydantic_serializer__.to_json(
                answer, exclude_unset=self.response_model_exclude_unset
            )
            return Response(content, status, media_type="application/json")

        return handle


@contextlib.contextmanager
def _wrong_in(place: str) -> Iterator[None]:
    """Raise errors of a model as those of this part of the request."""
    try:
        yield
    except ValidationError as error:
        raise RequestValidationError(
            [
                {**wrong, "loc": (place, *wrong["loc"])}
                for wrong in error.errors(include_url=False, include_input=False)
            ]
        ) from None


class DirectRoutes:
    """Middleware that answers the JsonRoutes of an app without its router.

    The router looks at one route after the other, and has layers that these need not: together as
    long as all the rest of a request.
    """

    def __init__(self, app: ASGIApp, of: FastAPI) -> None:
        """`of`: the app, which has all of its routes and exception handlers."""
        self._app = app
        self._of = of
        self._handlers: dict[tuple[str, str], tuple[JsonRoute, Handler]] = {
            (method, route.path): (route, route.get_route_handler())
            for route in of.routes
            if isinstance(route, JsonRoute)
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        found = scope["type"] == "http" and self._handlers.get((scope["method"], scope["path"]))
        if not found:
            await self._app(scope, receive, send)
            return
        scope["route"], handle = found
        request = Request(scope, receive)
        try:
            response = await handle(request)
        except Exception as error:
            response = self._problem(request, error)
        await response(scope, receive, send)

    def _problem(self, request: Request, error: Exception) -> Response:
        for kind in type(error).__mro__:
            if kind is not Exception and (handler := self._of.exception_handlers.get(kind)):
                return cast(Response, handler(request, error))  # none of ours is a coroutine
        raise error


def require_json(request: Request) -> None:
    """Raise Rejected unless the body of a request says that it is JSON."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise Rejected(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the Content-Type must be application/json"
        )
