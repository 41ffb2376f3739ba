"""`nextclick doctor`: looks at all that the services need, and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.util import find_spec
from typing import Literal, NamedTuple

from nextclick.shared.errors import ConfigurationError, NextclickError
from nextclick.shared.kafka import LagMonitor, new_topic_config, retained_offsets, topic_config
from nextclick.shared.kafka.schema_registry import answer_encoder
from nextclick.shared.model import select_device
from nextclick.shared.redis import session_store
from nextclick.shared.redis.sessions import ServerInfo
from nextclick.shared.registry import Registry
from nextclick.shared.registry.registry import published_at
from nextclick.shared.runtime.settings import Settings

MAX_SKEW_SECONDS = 1.0
"""Clocks that differ by more are worth a look: a click's age is told by two of them."""


class Finding(NamedTuple):
    """One line of the examination."""

    level: Literal["ok", "warning", "error"]
    """error: a service would not run, or wait."""
    what: str
    text: str


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield what was found, in the order of a click's way; see Finding.level."""
    kafka = settings.kafka
    found = [*_guarded("Kafka", partial(_clicks, settings))]
    yield from found
    if found[0].level == "ok":
        for topic in kafka.topics[1:]:
            yield from _guarded(f"topic {topic}", partial(_topic, settings, topic))
        groups = {"workers": settings.worker.group_id, "trainer": settings.trainer.group_id}
        for who, group_id in groups.items():
            yield from _guarded(who, partial(_lag, settings, who, group_id))
    for what, look in {
        "schema registry": _schema_registry,
        "Redis": _redis,
        "model": _model,
        "event log": _event_log,
        "device": _device,
        "API": _api,
    }.items():
        yield from _guarded(what, partial(look, settings))


def _guarded(what: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except NextclickError as error:
        yield Finding("error", what, str(error))


def _ok(what: str, text: str) -> Finding:
    return Finding("ok", what, text)


def _clicks(settings: Settings) -> Iterator[Finding]:
    kafka = settings.kafka
    began = time.monotonic()
    held = retained_offsets(kafka, kafka.clicks_topic)
    seconds = time.monotonic() - began
    yield _ok("Kafka", f"{kafka.bootstrap_servers} answers, in {1000 * seconds:.0f} ms")
    yield _ok(f"topic {kafka.clicks_topic}", _contents(held))


def _topic(settings: Settings, topic: str) -> Iterator[Finding]:
    held = retained_offsets(settings.kafka, topic)
    text = _contents(held)
    if topic == settings.kafka.items_topic:
        yield from _items_topic(settings, held, text)
    elif topic == settings.kafka.dlq_topic and any(held.values()):
        yield Finding("warning", f"topic {topic}", f"{text}: see nextclick dlq list")
    else:
        yield _ok(f"topic {topic}", text)


def _items_topic(settings: Settings, held: dict[int, range], text: str) -> Iterator[Finding]:
    """docs/items.md has why."""
    topic = settings.kafka.items_topic
    if len(held) != 1:
        yield Finding("error", f"topic {topic}", f"{text}: it must have one partition")
        return
    try:
        config = topic_config(settings.kafka, topic)
    except ConfigurationError:  # without DescribeConfigs
        yield _ok(f"topic {topic}", text)
        return
    wanted = new_topic_config(settings.kafka, topic)
    wrong = [name for name in ("cleanup.policy", "delete.retention.ms", "min.compaction.lag.ms")
             if config[name] != wanted[name]]  # fmt: skip
    if wrong:
        should = ", ".join(f"{name}={wanted[name]}" for name in wrong)
        yield Finding("warning", f"topic {topic}", f"{text}: set {should} (docs/items.md)")
    else:
        yield _ok(f"topic {topic}", text)


def _contents(held: dict[int, range]) -> str:
    messages = sum(map(len, held.values()))
    return f"{len(held)} partitions, {messages:,} offsets held"


def _lag(settings: Settings, who: str, group_id: str) -> Iterator[Finding]:
    monitor = LagMonitor(settings.kafka, settings.kafka.clicks_topic, group_id)
    try:
        yield _ok(who, f"{monitor.lag():,} clicks behind (group {group_id})")
    finally:
        monitor.close()


def _schema_registry(settings: Settings) -> Iterator[Finding]:
    registry = settings.schema_registry
    if registry.url.get_secret_value():
        if find_spec("fastavro") is None:
            text = (
                "the setting is there, and not the extra: pip install 'nextclick[schema-registry]'"
            )
            yield Finding("error", "schema registry", text)
            return
        from nextclick.shared.kafka.schema_registry.client import SchemaRegistry

        client = SchemaRegistry(registry)
        kinds = ", ".join(client.ping())
        yield _ok("schema registry", f"{client.name} answers, with {kinds}")
        if registry.auto_register:  # to ask for the id of our schema would register it
            return
    for topic in settings.kafka.answer_topics:
        answer_encoder(registry, topic, settings.answer_schema(topic))


def _redis(settings: Settings) -> Iterator[Finding]:
    sessions = session_store(settings)
    try:
        sessions.ping()
        try:
            asked = time.time()
            servers = sessions.servers()
            now = (asked + time.time()) / 2
        except ConfigurationError:
            yield _ok("Redis", "answers; its user may not use INFO (+info), which would tell more")
            return
    finally:
        sessions.close()
    for server in servers:
        yield from _server(server, now)


def _server(server: ServerInfo, now: float) -> Iterator[Finding]:
    limit = f" of {_megabytes(server.max_bytes)}" if server.max_bytes else ", no limit"
    text = f"{server.name}, {_megabytes(server.used_bytes)}{limit}, {server.policy}"
    if server.evicts:
        yield Finding("warning", "Redis", f"{text}: drops sessions when full; set noeviction")
    else:
        yield _ok("Redis", text)
    skew = server.time - now
    if abs(skew) > MAX_SKEW_SECONDS:
        yield Finding(
            "warning", "clock", f"Redis's is {skew:+.1f} s from ours: one of them is wrong"
        )


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _model(settings: Settings) -> Iterator[Finding]:
    registry = Registry(settings.registry.url)
    pointer = registry.pointer()
    if pointer is None:
        yield Finding(
            "warning",
            "model",
            f"none yet in {registry.url}: workers wait for the trainer's first, "
            f"from {settings.trainer.min_clicks:,} clicks on",
        )
        return
    checkpoint = registry.load(pointer.version)
    published = published_at(pointer.version)
    age = "" if published is None else f", {_age(datetime.now(UTC) - published)} old"
    waits = f"{pointer.waiting} waits to be promoted; " if pointer.waiting else ""
    hit_rate = checkpoint.metrics.get("test_hr@10", float("nan"))
    yield _ok(
        "model",
        f"{pointer.version}{age}, {len(checkpoint.vocabulary):,} items, HR@10 {hit_rate:.3f}; "
        f"{waits}{len(registry.versions()):,} versions in {registry.url}",
    )


def _age(age: timedelta) -> str:
    hours = age.total_seconds() / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.0f} days"


def _event_log(settings: Settings) -> Iterator[Finding]:
    if find_spec("pandas") is None:
        yield _ok("event log", "not for us: nextclick[train] is not installed here")
        return
    from nextclick.trainer.collect import EventLog

    clicks = EventLog(settings.trainer.event_log, read_only=True).count()
    yield _ok("event log", f"{clicks:,} clicks in {settings.trainer.event_log}")


def _device(settings: Settings) -> Iterator[Finding]:
    yield _ok("device", str(select_device(settings.device)))


def _api(settings: Settings) -> Iterator[Finding]:
    api = settings.api
    if find_spec("fastapi") is None:
        return
    from nextclick.services.api.access import access, check_listening_address

    check_listening_address(api)
    protection = "with a key" if access(api).needs_key else "for this machine only"
    yield _ok("API", f"{api.host}:{api.port}, {protection}")
