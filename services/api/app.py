"""The HTTP routes. They only validate and delegate; answers are computed in other modules."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Collection
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Path, Query, Response, Security
from fastapi.security import APIKeyHeader
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse

from nextclick.services.api import documentation, problems
from nextclick.services.api.batches import MicroBatcher
from nextclick.services.api.click_publisher import click_of
from nextclick.services.api.messages import (
    MAX_HISTORY,
    MAX_K,
    ClickAccepted,
    ClickRequest,
    Contribution,
    Denied,
    ExplanationResponse,
    HistoryRequest,
    ModelsResponse,
    Problem,
    Recommendations,
    SessionResponse,
)
from nextclick.services.api.middleware import BodyLimit, RequestMetrics
from nextclick.services.api.models import registry_summary
from nextclick.services.api.problems import Rejected, responses
from nextclick.services.api.recommender import ListAnswer, ListRequest, NoModel
from nextclick.services.api.rule_book import RuleBook
from nextclick.shared.model.explain import explain
from nextclick.shared.redis import SessionStore
from nextclick.shared.registry import ModelSlot, Registry
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.health import Probes
from nextclick.shared.runtime.settings import ApiSettings
from nextclick.shared.schemas import MAX_ID_LENGTH, Click

UserId = Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH)]
ItemId = Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH)]
ItemsWanted = Annotated[
    int, Query(ge=1, le=MAX_K, description="length of the list; shorter if there are fewer items")
]
ItemIds = Annotated[str, Query(min_length=1, max_length=MAX_ID_LENGTH)]


@dataclass(frozen=True)
class Components:
    """The components that the routes use."""

    recommend: MicroBatcher[ListRequest, ListAnswer]
    publish: MicroBatcher[Click, Click]
    sessions: SessionStore
    slot: ModelSlot
    registry: Registry
    rules: RuleBook
    alive: Probes
    ready: Probes
    """Only the check `model` decides readiness; lists can be served without Redis and Kafka."""


def create_app(
    components: Components, settings: ApiSettings, default_k: int, secrets: Collection[str] = ()
) -> FastAPI:
    """Make the application.

    default_k: length of a list if the request has no k. secrets: masked in all error texts.
    """
    app = FastAPI(
        title="nextclick",
        version="1",
        description="What will this shopper click next?",
        dependencies=_key_checks(settings.key.get_secret_value()),
        responses=responses(401, 413, 422, 503),
        docs_url=None,
        redoc_url=None,
    )
    documentation.install(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(RequestMetrics)
    problems.install(app, secrets)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]

    def list_request(
        user_id: str | None,
        history: list[str],
        k: int | None,
        exclude_seen: bool | None,
        category: str | None,
    ) -> ListRequest:
        known = components.rules.rules.catalogue.categories
        if category is not None and category not in known:
            detail = f"there is no category {category!r}" if known else "there are no categories"
            raise Rejected(HTTPStatus.NOT_FOUND, f"{detail}: see NEXTCLICK_API__CATALOGUE")
        seen = settings.exclude_seen if exclude_seen is None else exclude_seen
        return ListRequest(user_id, history, k or default_k, seen, category)

    async def recommendations(request: ListRequest) -> Recommendations:
        answer = await components.recommend.submit(request)
        return Recommendations(
            user_id=request.user_id,
            items=answer.items,
            model_version=answer.model_version,
            history=answer.history,
            fallback=answer.fallback,
        )

    @app.get("/recommendations/{user_id:path}", tags=["lists"], responses=responses(404))
    async def recommend_for_user(
        user_id: UserId,
        k: ItemsWanted = default_k,
        exclude_seen: bool | None = None,
        category: Annotated[str | None, Query(min_length=1, max_length=MAX_ID_LENGTH)] = None,
    ) -> Recommendations:
        """The items that a user is likely to click next, from the user's session.

        An unknown user gets the most clicked items, with `fallback` `cold_start`.
        """
        return await recommendations(list_request(user_id, [], k, exclude_seen, category))

    @app.post("/recommendations", tags=["lists"], responses=responses(404))
    async def recommend_for_history(body: HistoryRequest) -> Recommendations:
        """The items that are likely to be clicked after a history, for visitors without an id."""
        return await recommendations(
            list_request(None, body.history, body.k, body.exclude_seen, body.category)
        )

    @app.post("/clicks", status_code=202, tags=["clicks"])
    async def click(body: ClickRequest) -> ClickAccepted:
        """Publish a click. The response is sent after Kafka has acknowledged it.

        The worker adds it to the user's session some milliseconds later.
        """
        accepted = await components.publish.submit(click_of(body))
        return ClickAccepted(event_id=accepted.event_id)

    @app.get("/users/{user_id:path}/session", tags=["clicks"])
    def session(user_id: UserId) -> SessionResponse:
        """The last ten items of a user's session."""
        (found,) = components.sessions.read([user_id])
        return SessionResponse(user_id=user_id, history=found.history, last_click=found.last_click)

    @app.get("/explain", tags=["lists"])
    def explanation(
        user_id: Annotated[str | None, Query(min_length=1, max_length=MAX_ID_LENGTH)] = None,
        history: Annotated[
            list[ItemIds], Query(max_length=MAX_HISTORY, description="item ids, oldest first")
        ] = [],  # noqa: B006
    ) -> ExplanationResponse:
        """Explain the recommendations for a history, or else for a user, by the served model."""
        model = components.slot.model
        if model is None:
            raise NoModel
        if user_id is not None and not history:
            history = components.sessions.read([user_id])[0].history
        explained = explain(model.scorer, history)
        return ExplanationResponse(
            model_version=model.version,
            history=explained.history,
            items=[
                Contribution(item_id=item.item_id, score=item.score, contributions=row)
                for item, row in zip(explained.items, explained.contributions, strict=True)
            ],
        )

    @app.get("/models", tags=["operation"])
    def models() -> ModelsResponse:
        """The versions in the registry, and the one that this process serves."""
        return registry_summary(components.registry, components.slot)

    @app.get("/denied", tags=["rules"])
    def denied() -> Denied:
        """The deny list, as this process knows it."""
        return Denied(items=sorted(components.rules.rules.denied))

    @app.put("/denied/{item_id:path}", status_code=204, tags=["rules"])
    def deny(item_id: ItemId) -> None:
        """Stop recommending an item: this process at once, others within a second."""
        components.rules.deny(item_id)

    @app.delete("/denied/{item_id:path}", status_code=204, tags=["rules"])
    def allow(item_id: ItemId) -> None:
        """Recommend an item again."""
        components.rules.allow(item_id)

    _add_operation(app, components)
    return app


def _add_operation(app: FastAPI, components: Components) -> None:
    """Add /healthz, /readyz and /metrics, as on the worker's metrics port; they need no key."""

    async def healthz(_: Any) -> Response:
        results = await asyncio.to_thread(components.alive.results)
        return JSONResponse(results, 200 if set(results.values()) <= {"ok"} else 503)

    async def readyz(_: Any) -> Response:
        results = await asyncio.to_thread(components.ready.results)
        return JSONResponse(results, 200 if results["model"] == "ok" else 503)

    async def prometheus_metrics(_: Any) -> Response:
        results = await asyncio.to_thread(components.ready.results)
        for check, outcome in results.items():
            metrics.READY.labels(check).set(outcome == "ok")
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    app.add_route("/healthz", healthz, include_in_schema=False)
    app.add_route("/readyz", readyz, include_in_schema=False)
    app.add_route("/metrics", prometheus_metrics, include_in_schema=False)


def _key_checks(key: str) -> list[Any]:
    """Dependencies of every route that check the API key; none if no key is set."""
    if not key:
        return []
    header = APIKeyHeader(name="X-API-Key", auto_error=False)

    async def check(given: str | None = Security(header)) -> None:
        if given is None or not hmac.compare_digest(given.encode(), key.encode()):
            raise Rejected(HTTPStatus.UNAUTHORIZED, "the header X-API-Key is missing or wrong")

    return [Depends(check)]


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's OpenAPI document, with our problem documents as the schema of errors."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        schemas = document["components"]["schemas"]
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        schemas["Problem"] = Problem.model_json_schema()
        app.openapi_schema = document
    return app.openapi_schema
