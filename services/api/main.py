"""Entry point of the HTTP service: makes and connects its components."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import uvicorn

from nextclick.services.api.access import access, check_listening_address
from nextclick.services.api.app import Forget, create_app
from nextclick.services.api.batches import MicroBatcher
from nextclick.services.api.click_publisher import ClickPublisher
from nextclick.services.api.components import Components
from nextclick.services.api.explainer import MAX_WAITING, Explainer
from nextclick.services.api.http_protocol import ConnectionLimits, limited_protocol
from nextclick.services.api.item_editor import ItemEditor
from nextclick.services.api.open_files import allowed_connections
from nextclick.services.api.page import routes
from nextclick.services.api.page.feed import Feed
from nextclick.services.api.published_clicks import PublishedClicks
from nextclick.services.api.recommender import NoModel, Recommender
from nextclick.services.api.rule_book import RuleBook
from nextclick.shared.click_rules import ClickRules
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.items import ItemStates
from nextclick.shared.kafka import ItemCatalogue, LagMonitor
from nextclick.shared.model import Scorer, select_device
from nextclick.shared.redis import session_store
from nextclick.shared.registry import ModelSlot, Registry
from nextclick.shared.runtime.anomalies import time_bounds
from nextclick.shared.runtime.environment import secrets
from nextclick.shared.runtime.garbage_collector import freeze_garbage_collector
from nextclick.shared.runtime.health import WAIT_SECONDS, HealthServer
from nextclick.shared.runtime.settings import ApiSettings, Settings
from nextclick.shared.schemas import Recommendation
from nextclick.shared.stream_metrics import K, TopItems
from nextclick.shared.windows import PADDING

log = logging.getLogger(__name__)

_DRAIN_SECONDS = 5
"""After SIGTERM, open requests have this long to finish."""


def run(settings: Settings, ceiling: TopItems | None = None, forget: Forget | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C.

    ceiling: the best possible lists, for the page; known only if the clicks are simulated. forget:
    what DELETE /users/{user_id} calls.

    Raises ConfigurationError if a setting, the device or the port is not usable. While Redis or
    Kafka is unavailable, requests get fallback lists or errors.
    """
    api = settings.api
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    check_listening_address(api)
    allowed = access(api)
    if not allowed.needs_key:
        log.info("no key: only this machine can use the service")
    with _listening(api) as listening, open_components(settings) as components:
        app = create_app(
            components, api, settings.worker.top_k, allowed, secrets(), forget, settings.profiles
        )
        baselines = {"popularity": most_popular(components.slot, components.items)}
        if ceiling is not None:
            baselines["ceiling"] = ceiling
        feed = Feed(
            settings.kafka,
            settings.worker.group_id,
            baselines,
            settings.clicks,
            lambda items: unknown_items(components.slot, items),
            settings.schema_registry,
        )
        page = routes.install(app, components, feed, allowed) if api.page else None
        connections = allowed_connections(api.max_connections)
        limits = ConnectionLimits(api.max_header_bytes, api.request_seconds, connections)
        config = uvicorn.Config(
            app,
            http=limited_protocol(limits),
            ws="none",
            timeout_keep_alive=api.idle_seconds,  # type: ignore[arg-type]
            log_config=None,  # logs go through our handlers
            access_log=False,  # /metrics counts requests
            timeout_graceful_shutdown=_DRAIN_SECONDS,
            server_header=False,
            proxy_headers=bool(api.trusted_proxies),
            forwarded_allow_ips=api.trusted_proxies,
        )
        host, port = listening.getsockname()[:2]
        log.info("listening on http://%s:%d", host, port)
        app.openapi()  # kept by the app; later it would take 0.1 s of the event loop
        freeze_garbage_collector()
        server = uvicorn.Server(config)
        if page is not None:
            page.events.stopping = lambda: server.should_exit
        with _metrics_port(api.metrics_port, components):
            try:
                server.run([listening])
            finally:
                feed.stop()
                if page is not None:
                    page.stop()


def most_popular(slot: ModelSlot, items: ItemCatalogue) -> TopItems:
    """A baseline: the served model's most popular items that may be in lists, for every history."""

    def top(answers: Sequence[Recommendation]) -> list[set[str]]:
        model = slot.model
        if model is None:
            return [set()] * len(answers)
        (ranking,) = model.scorer.recommend([[]], withheld=items.states.withheld)
        return [{item.item_id for item in ranking.items[:K]}] * len(answers)

    return top


def unknown_items(slot: ModelSlot, items: Sequence[str]) -> int:
    """How many of some items the served model does not know; 0 without a model."""
    model = slot.model
    return int((model.scorer.vocabulary.rows(list(items)) == PADDING).sum()) if model else 0


@contextlib.contextmanager
def open_components(settings: Settings) -> Iterator[Components]:
    """Make and start the components that the routes use; stop them at the end."""
    torch.set_num_threads(settings.worker.torch_threads)
    device = select_device(settings.device)
    api, kafka = settings.api, settings.kafka
    registry = Registry(settings.registry.url)
    slot = ModelSlot(
        registry,
        lambda checkpoint: Scorer(checkpoint, device, settings.worker.top_k),
        settings.registry.poll_seconds,
        deltas=settings.registry.deltas,
        related=True,
        arms=True,
    )
    redis = settings.redis.model_copy(update={"timeout_seconds": api.redis_timeout_seconds})
    sessions = session_store(settings.model_copy(update={"redis": redis}))
    rules = RuleBook(Path(api.catalogue) if api.catalogue else None, api.rules_poll_seconds)
    items = ItemCatalogue(kafka, keep_values=True, keep_attributes=True)

    def states() -> ItemStates:
        return items.states

    # The worker counts what is unusual about a click.
    read_as_worker = ClickRules(settings.clicks.event_weights, time_bounds(settings.clicks))
    published = PublishedClicks(read_as_worker)
    click_publisher = ClickPublisher(kafka, published)
    recommender = Recommender(slot, sessions, rules, published, states)
    recommend = MicroBatcher(
        "recommend",
        recommender.answer,
        max_batch=api.max_batch,
        max_waiting=api.max_waiting,
    )
    publish = MicroBatcher(
        "publish",
        click_publisher.publish,
        max_batch=api.max_batch,
        max_waiting=api.max_waiting,
        prepare=click_publisher.connect,
    )
    explain = MicroBatcher(
        "explain",
        Explainer(slot, sessions, states).answer,
        max_batch=1,
        max_waiting=MAX_WAITING,
    )
    edit = MicroBatcher(
        "items", ItemEditor(kafka, items).apply, max_batch=1, max_waiting=api.max_waiting
    )
    monitor = LagMonitor(kafka, kafka.clicks_topic, settings.worker.group_id)

    def model() -> None:
        if slot.model is None:
            raise NoModel

    threads = (slot, rules, items, recommend, publish, explain, edit)
    for thread in threads:
        thread.start()
    try:
        yield Components(
            recommend=recommend,
            publish=publish,
            explain=explain,
            sessions=sessions,
            slot=slot,
            registry=registry,
            rules=rules,
            items=items,
            edit=edit,
            alive={t.name: t.check for t in (recommend, publish, explain, edit)},
            ready={
                "model": model,
                "items": items.check,
                "experiment": slot.check_arms,
                "redis": sessions.ping,
                "kafka": lambda: monitor.ping(WAIT_SECONDS),
            },
        )
    finally:
        for thread in reversed(threads):
            thread.stop()
        monitor.close()
        sessions.close()


@contextlib.contextmanager
def _metrics_port(port: int, components: Components) -> Iterator[None]:
    """Serve /metrics without a key on a port of its own, if there is one."""
    if not port:
        yield
        return
    server = HealthServer(
        port,
        "NEXTCLICK_API__METRICS_PORT",
        alive=components.alive,
        ready=components.ready,
        not_deciding=["experiment"],
    )
    try:
        yield
    finally:
        server.close()


def _listening(api: ApiSettings) -> socket.socket:
    address = api.host, api.port
    try:
        family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server(address, family=family, backlog=2048, reuse_port=api.reuse_port)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ConfigurationError(
            f"NEXTCLICK_API__HOST, NEXTCLICK_API__PORT = {api.host}:{api.port}: {why}"
        ) from None
