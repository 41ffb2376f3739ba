"""The routes of the page: static files for everybody, and data for who is signed in.

All of them are below /page/, but for / itself. `Access` lets those in who are signed in, or send
the key; the static files hold no data.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal, TypeVar

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from nextclick.services.api.access import Access, client_address, key_of
from nextclick.services.api.batches import MicroBatcher
from nextclick.services.api.click_publisher import click_of
from nextclick.services.api.components import Components
from nextclick.services.api.messages import MAX_HISTORY, ClickRequest, Id, Text
from nextclick.services.api.page.events import Broadcaster
from nextclick.services.api.page.feed import Feed
from nextclick.services.api.page.shopper import ModelBefore, Suggestions, list_of
from nextclick.services.api.page.sign_in import SignIn
from nextclick.services.api.page.state import State
from nextclick.services.api.problems import Rejected
from nextclick.shared.registry import ServedModel

STATIC = Path(__file__).parent / "static"
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Beside those of every response."""

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KeyBody(_Body):
    """The API key, to sign in."""

    key: Text = Field(max_length=4096)


class ListBody(_Body):
    """A history; `before`: the list is that of the model before."""

    history: list[Id] = Field(max_length=MAX_HISTORY)
    before: bool = False


class ModelBody(_Body):
    """Which version shall serve: one by name, or (rollback) the one before `version`."""

    action: Literal["promote", "rollback"]
    version: Text = Field(max_length=100)


class _Files(StaticFiles):
    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(SECURITY_HEADERS | {"Cache-Control": "no-cache"})
        return response


class Page:
    """What the page needs beside the components of the service."""

    def __init__(self, components: Components, feed: Feed, access: Access) -> None:
        self._components = components
        self._access = access
        self._sign_in = SignIn(access)
        access.open_paths |= {"/", "/page/session"}
        access.open_folders += ("/page/static/",)
        self._before = ModelBefore(components.registry, components.slot)
        self._suggestions = Suggestions()
        self._state = State(components, feed)
        self.events = Broadcaster(self._state.content)
        self._lists: MicroBatcher[Callable[[], Any], Any] = MicroBatcher(
            "page", lambda jobs: [job() for job in jobs], max_batch=1, max_waiting=64
        )
        self._lists.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._lists.stop()

    def add_routes(self, app: FastAPI) -> None:
        """Add the routes. They are no part of the OpenAPI document: only the page uses them."""

        def route(path: str, handler: Handler, method: str) -> None:
            @functools.wraps(handler)
            async def checked(request: Request) -> Response:
                _check_site(request)
                response = await handler(request)
                response.headers.update(SECURITY_HEADERS)
                return response

            app.add_route(path, checked, methods=[method], include_in_schema=False)

        route("/", self._shell, "GET")
        route("/page/session", self._session, "GET")
        route("/page/session", self._open_session, "POST")
        route("/page/session", self._close_session, "DELETE")
        route("/page/events", self._events, "GET")
        route("/page/items", self._items, "GET")
        route("/page/list", self._list, "POST")
        route("/page/shopper", self._shopper, "GET")
        route("/page/clicks", self._click, "POST")
        route("/page/model", self._move_pointer, "POST")
        app.mount("/page/static", _Files(directory=STATIC))

    async def _shell(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    async def _session(self, request: Request) -> Response:
        """Whether the visitor is signed in. A key that comes along counts, if wrong, as a guess."""
        given = key_of(request.scope)
        if given is not None and self._access.needs_key:
            self._access.check_key(given, client_address(request.scope))
        signed_in = self._sign_in.allows(request)
        return _json({"needs_key": self._access.needs_key, "signed_in": signed_in})

    async def _open_session(self, request: Request) -> Response:
        body = await _body(request, KeyBody)
        return self._sign_in.open(body.key, request)

    async def _close_session(self, request: Request) -> Response:
        self._sign_in.close(request)
        return Response(status_code=204)

    async def _events(self, request: Request) -> Response:
        return self.events.respond(request, lambda: self._sign_in.allows(request))

    async def _items(self, request: Request) -> Response:
        text = request.query_params.get("q", "")[:128]
        titles = self._components.titles
        model = self._components.slot.model
        found: list[str] = []
        if model is not None:
            found = await self._lists.submit(lambda: self._suggestions.find(model, titles, text))
        return _json({"items": found, "titles": self._state.titles(found)})

    async def _list(self, request: Request) -> Response:
        body = await _body(request, ListBody)
        model = await self._before.get() if body.before else self._components.slot.model
        return _json(await self._list_of(model, body.history))

    async def _list_of(self, model: ServedModel | None, history: list[str]) -> dict[str, Any]:
        if model is None:
            return {"version": None, "history": history, "items": [], "titles": {}}
        began = time.perf_counter()
        withheld = self._components.items.states.withheld
        answer: dict[str, Any] = await self._lists.submit(lambda: list_of(model, history, withheld))
        shown = [*answer["history"], *(item["id"] for item in answer["items"])]
        answer["titles"] = self._state.titles(shown)
        answer["milliseconds"] = round((time.perf_counter() - began) * 1000, 1)
        return answer

    async def _shopper(self, request: Request) -> Response:
        """A shopper of the stream: the list that the worker sent, else that of Redis' history."""
        user_id = request.query_params.get("user_id", "")[:128]
        # In the thread: it waits for the one that follows the stream.
        live = await self._lists.submit(lambda: self._state.shopper(user_id))
        if live is not None:
            return _json(live)
        sessions = self._components.sessions
        (found,) = await self._lists.submit(lambda: sessions.read([user_id]))
        answer = await self._list_of(self._components.slot.model, found.history)
        return _json(answer | {"user_id": user_id, "clicks": 0})

    async def _click(self, request: Request) -> Response:
        body = await _body(request, ClickRequest)
        accepted = await self._components.publish.submit((click_of(body), ()))
        return _json({"event_id": accepted.event_id}, 202)

    async def _move_pointer(self, request: Request) -> Response:
        body = await _body(request, ModelBody)
        registry = self._components.registry

        def move() -> None:
            registry.check_no_experiment()
            if body.action == "promote":
                registry.promote(body.version)
            else:
                registry.rollback(only_if=body.version, reason="by a person, on the page")

        await self._lists.submit(move)
        return Response(status_code=204)


def install(app: FastAPI, components: Components, feed: Feed, access: Access) -> Page:
    """Serve the page at / of an application, which must have no route there.

    Stop the returned page at the end.
    """
    page = Page(components, feed, access)
    page.add_routes(app)
    return page


def _check_site(request: HTTPConnection) -> None:
    """Refuse what another web site makes a browser send."""
    site = request.headers.get("sec-fetch-site", "none")
    navigates = request.headers.get("sec-fetch-mode") == "navigate"
    if site not in ("same-origin", "none") and not (navigates and request.scope["path"] == "/"):
        raise Rejected(HTTPStatus.FORBIDDEN, "the page answers its own scripts only")


B = TypeVar("B", bound=BaseModel)


async def _body(request: Request, kind: type[B]) -> B:
    """The body of a request. Raises RequestValidationError; Rejected if it is not called JSON."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Rejected(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send application/json")
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_input=False)) from None


def _json(content: Any, status: int = 200) -> Response:
    return JSONResponse(content, status, {"Cache-Control": "no-store"})
