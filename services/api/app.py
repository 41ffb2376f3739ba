"""The HTTP routes. They only validate and delegate; answers are computed in other modules."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from http import HTTPStatus
from types import MappingProxyType
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse

from nextclick.services.api import documentation, item_routes, problems
from nextclick.services.api.access import Access
from nextclick.services.api.click_publisher import click_of
from nextclick.services.api.components import Components
from nextclick.services.api.entity_tags import NOT_MODIFIED, unless_known
from nextclick.services.api.explainer import ExplanationRequest
from nextclick.services.api.json_route import DirectRoutes, JsonRoute
from nextclick.services.api.messages import (
    MAX_HISTORY,
    BatchedRequest,
    BatchRequest,
    BatchResponse,
    ClickAccepted,
    ClickQuery,
    ClickRequest,
    ExplanationResponse,
    HistoryRequest,
    ModelsResponse,
    Problem,
    Recommendations,
    SessionResponse,
)
from nextclick.services.api.middleware import (
    AccessCheck,
    BodyLimit,
    RequestLimit,
    RequestMetrics,
    SecurityHeaders,
)
from nextclick.services.api.models import registry_summary
from nextclick.services.api.parameters import Category, ItemIds, ItemsWanted, ProfileOfList, UserId
from nextclick.services.api.problems import Rejected, responses
from nextclick.services.api.recommender import ListRequest
from nextclick.services.api.single_flight import SingleFlight
from nextclick.shared.errors import NextclickError
from nextclick.shared.messages import trace_context
from nextclick.shared.past import check_days
from nextclick.shared.profiles import Profile, profile_id
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.health import Probes
from nextclick.shared.runtime.settings import ApiSettings
from nextclick.shared.schemas import MAX_ID_LENGTH

Forget = Callable[[str], dict[str, Any]]
"""Forgets a user; returns the certificate (services/forget)."""


def create_app(
    components: Components,
    settings: ApiSettings,
    default_k: int,
    access: Access,
    secrets: Collection[str] = (),
    forget: Forget | None = None,
    profiles: Mapping[str, Profile] = MappingProxyType({}),
) -> FastAPI:
    """Make the application.

    default_k: length of a list if the request has no k. secrets: masked in all error texts. forget:
    None: there is no such route. profiles: those that requests may name.
    """
    app = FastAPI(
        title="nextclick",
        version="1",
        description="What will this shopper click next?",
        responses=responses(400, 401, 403, 413, 415, 421, 422, 429, 503),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # to an address that the client's header Host names
        generate_unique_id_function=lambda route: route.name,  # names in clients made from it
    )
    documentation.install(app)
    # The last one is the outermost.
    app.add_middleware(DirectRoutes, of=app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(RequestLimit, most=settings.max_requests)
    app.add_middleware(AccessCheck, access=access)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestMetrics)
    problems.install(app, secrets)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]

    def list_request(
        user_id: str | None,
        history: list[str],
        asked: HistoryRequest | BatchedRequest | ClickQuery,
    ) -> ListRequest:
        k = asked.k or default_k
        constraints: list[Profile] = []
        if isinstance(asked, HistoryRequest | BatchedRequest) and asked.constraints is not None:
            try:
                asked.constraints.check_length(k)
                check_days([asked.constraints], profiles.values())
            except ValueError as error:
                raise Rejected(HTTPStatus.UNPROCESSABLE_ENTITY, f"constraints: {error}") from None
            constraints.append(asked.constraints)
        constraints += components.constraints(profiles, asked.profile, asked.category)
        seen = settings.exclude_seen if asked.exclude_seen is None else asked.exclude_seen
        return ListRequest(user_id, history, k, seen, tuple(constraints), asked.profile)

    async def recommendations(request: ListRequest) -> Recommendations:
        answer = await components.recommend.submit(request)
        name = request.profile
        return Recommendations(
            user_id=request.user_id,
            items=answer.items,
            model_version=answer.model_version,
            history=answer.history,
            fallback=answer.fallback,
            profile=None if name is None else profile_id(name, profiles[name]),
            shortened_by=answer.shortened_by,
            experiment=answer.experiment,
            exploration=answer.exploration,
            kept_out=answer.kept_out,
        )

    def json_route(path: str, tag: str, **options: Any) -> Callable[[Any], Any]:
        def add(function: Any) -> Any:
            app.router.add_api_route(
                path,
                function,
                methods=["POST"],
                tags=[tag],
                responses=responses(404),
                route_class_override=JsonRoute,
                **options,
            )
            return function

        return add

    @json_route("/recommendations", "lists")
    async def recommend_for_history(body: HistoryRequest) -> Recommendations:
        """The items that are likely to be clicked after a history, for visitors without an id."""
        return await recommendations(list_request(None, body.history, body))

    @json_route("/recommendations/batch", "lists")
    async def recommend_batch(body: BatchRequest) -> BatchResponse:
        """Several lists at once, in the order of the requests."""
        requests = [
            list_request(None if q.history else q.user_id, q.history, q) for q in body.requests
        ]
        return BatchResponse(lists=await asyncio.gather(*map(recommendations, requests)))

    @app.get(
        "/recommendations/{user_id:path}",
        tags=["lists"],
        responses={**responses(404), **NOT_MODIFIED},
        response_model=Recommendations,
    )
    async def recommend_for_user(
        request: Request,
        user_id: UserId,
        k: ItemsWanted = default_k,
        exclude_seen: bool | None = None,
        category: Category = None,
        profile: ProfileOfList = None,
    ) -> Response:
        """The items that a user is likely to click next, from the user's session.

        An unknown user gets the most clicked items, with `fallback` `cold_start`.
        """
        asked = ClickQuery(k=k, exclude_seen=exclude_seen, category=category, profile=profile)
        wanted = list_request(user_id, [], asked)
        return unless_known(request, await recommendations(wanted))

    @json_route("/clicks", "clicks", status_code=202, response_model_exclude_unset=True)
    async def publish_click(
        request: Request, body: ClickRequest, query: Annotated[ClickQuery, Query()]
    ) -> ClickAccepted:
        """Publish a click. The response is sent after Kafka has acknowledged it.

        The worker adds it to the user's session some milliseconds later. With `recommend` the list
        is not waited for: it is the one that the worker's model gives for the same history.
        """
        click = click_of(body)
        wanted = list_request(click.user_id, [], query)
        headers = ((name.decode("latin-1"), value) for name, value in request.headers.raw)
        await components.publish.submit((click, trace_context(headers)))
        if not query.recommend:
            return ClickAccepted(event_id=click.event_id)
        try:
            answer = await recommendations(replace(wanted, click=click))
        except NextclickError:  # the click is published, whatever comes of the list
            return ClickAccepted(event_id=click.event_id, recommendations=None)
        return ClickAccepted(event_id=click.event_id, recommendations=answer)

    @app.get("/users/{user_id:path}/session", tags=["clicks"])
    def read_session(user_id: UserId) -> SessionResponse:
        """The last ten items of a user's session."""
        (found,) = components.sessions.read([user_id])
        return SessionResponse(user_id=user_id, history=found.history, last_click=found.last_click)

    @app.get("/explain", tags=["lists"])
    async def explain(
        user_id: Annotated[str | None, Query(min_length=1, max_length=MAX_ID_LENGTH)] = None,
        history: Annotated[
            list[ItemIds], Query(max_length=MAX_HISTORY, description="item ids, oldest first")
        ] = [],  # noqa: B006
    ) -> ExplanationResponse:
        """Explain the recommendations for a history, or else for a user, by the served model."""
        return await components.explain.submit(ExplanationRequest(user_id, history))

    @app.get("/models", tags=["operation"], responses=NOT_MODIFIED, response_model=ModelsResponse)
    def list_models(request: Request) -> Response:
        """The versions in the registry, and the one that this process serves."""
        return unless_known(request, registry_summary(components.registry, components.slot))

    item_routes.install(app, components, profiles)
    if forget is not None:
        _add_forget(app, forget)
    _add_operation(app, components)
    return app


def _add_forget(app: FastAPI, forget: Forget) -> None:
    @app.delete(
        "/users/{user_id:path}",
        tags=["clicks"],
        responses={202: {"description": "Not complete: see `remaining`, and repeat the request"}},
    )
    def forget_user(user_id: UserId, response: Response) -> dict[str, Any]:
        """Forget a user: session, logged clicks, and what will still arrive.

        The response is the certificate, as that of `nextclick forget`. It may take ten seconds and
        more.
        """
        certificate = forget(user_id)
        response.status_code = 200 if certificate["complete"] else 202
        return certificate


def _add_operation(app: FastAPI, components: Components) -> None:
    """Add /healthz and /readyz, which need no key, and /metrics, as on the worker's port."""

    # Anybody may ask, and a check that hangs takes seconds: however many ask, it is one thread.
    alive = SingleFlight(Probes(components.alive).results)
    ready = SingleFlight(Probes(components.ready).results)
    shown = SingleFlight(generate_latest)  # some ms, too long for the event loop

    async def healthz(_: Any) -> Response:
        results = await alive.result()
        return JSONResponse(results, 200 if set(results.values()) <= {"ok"} else 503)

    async def readyz(_: Any) -> Response:
        results = await ready.result()
        return JSONResponse(results, 200 if results["model"] == results["items"] == "ok" else 503)

    async def prometheus_metrics(_: Any) -> Response:
        results = await ready.result()
        for check, outcome in results.items():
            metrics.READY.labels(check).set(outcome == "ok")
        return Response(await shown.result(), media_type=CONTENT_TYPE_LATEST)

    app.add_route("/healthz", healthz, include_in_schema=False)
    app.add_route("/readyz", readyz, include_in_schema=False)
    app.add_route("/metrics", prometheus_metrics, include_in_schema=False)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's OpenAPI document, with our problem documents as the schema of errors."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        schemas = document["components"]["schemas"]
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        schemas["Problem"] = Problem.model_json_schema()
        document["components"]["securitySchemes"] = {
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            "bearer": {"type": "http", "scheme": "bearer"},
        }
        # A service that only its own machine can reach may have no key.
        document["security"] = [{"key": []}, {"bearer": []}, {}]
        app.openapi_schema = document
    return app.openapi_schema
