from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

from nextclick.shared.errors import Unavailable
from nextclick.shared.kafka.background import BackgroundCall
from nextclick.shared.kafka.group_description import GroupDescription, GroupMember
from nextclick.shared.kafka.unassigned import UnassignedPartitions
from nextclick.shared.runtime.settings import KafkaSettings


class Admin:
    """Knows of two partitions."""

    def describe_topics(self, topics: object, request_timeout: float) -> dict[str, Future[Any]]:
        future: Future[Any] = Future()
        future.set_result(SimpleNamespace(partitions=[SimpleNamespace(id=p) for p in (0, 1)]))
        return {"clicks": future}


class Joining:
    """A client that is told of its partitions at once."""

    def __init__(self, kind: object, config: dict[str, Any]) -> None:
        assert "group.instance.id" not in config

    def subscribe(self, topics: list[str], on_assign: Callable[..., None]) -> None:
        self._on_assign = on_assign

    def poll(self, timeout: float) -> None:
        self._on_assign(self, [])

    def close(self) -> None:
        pass


class Now:
    """A call in the background that has ended when it has begun."""

    ended = True

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        work()


def of(*partitions: int, stable: bool = True) -> GroupDescription:
    """A group that has assigned these."""
    return GroupDescription(stable, (GroupMember("w", frozenset(partitions)),))


def test_a_static_member_that_has_joined_looks_until_all_partitions_are_assigned() -> None:
    now = 0.0
    answers: list[GroupDescription | None] = []
    looks: list[float] = []
    joins: list[float] = []

    def describe(settings: KafkaSettings, group: str, topic: str) -> GroupDescription:
        looks.append(now)
        if (answer := answers.pop(0)) is None:
            raise Unavailable("Kafka does not answer")
        return answer

    def make_client(kind: object, config: dict[str, Any]) -> Joining:
        joins.append(now)
        return Joining(kind, config)

    unassigned = UnassignedPartitions(
        KafkaSettings(),
        "clicks",
        {"group.id": "g", "group.instance.id": "w"},
        cast(Any, Admin()),
        lambda: now,
        cast(Any, make_client),
        cast(type[BackgroundCall], Now),
        describe,
    )

    def look_every_second(until: float) -> None:
        nonlocal now
        while now < until:
            unassigned.look()
            now += 1.0

    look_every_second(5)
    assert looks == [], "it has not joined yet"
    unassigned.joined()
    answers += [of(0, stable=False), None, of(0), of(0, 1, stable=False), of(0), of(0), of(0, 1)]
    look_every_second(40)
    assert looks == [8, 11, 14, 17, 20, 23, 26], "and then not any more"
    assert joins == [23], "once the same partition was nobody's in two looks, one after the other"
    unassigned.joined()
    answers.append(of(0, 1))
    look_every_second(60)
    assert looks[7:] == [43]
