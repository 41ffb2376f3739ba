"""`nextclick sessions rebuild`: rebuilds lost sessions in Redis from the clicks topic.

Reads the topic from its start to the committed offsets of the workers, and appends every click
again. Appends are idempotent (shared/redis/sessions.py), so this can be repeated, and run beside
workers. But the older clicks of a user who clicks during the rebuild, before they are read, are
skipped; to avoid that, stop the workers first.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from itertools import islice

from nextclick.services.worker import decide
from nextclick.shared.kafka import GroupOffsets, read_offsets, retained_offsets
from nextclick.shared.kafka.schema_registry import framed_reader
from nextclick.shared.redis import session_store
from nextclick.shared.runtime.anomalies import click_rules
from nextclick.shared.runtime.settings import Settings
from nextclick.shared.schemas import Click

BATCH = 1000


@dataclass(frozen=True)
class Rebuilt:
    """The outcome, in clicks."""

    read: int
    behind: int
    """Skipped, because the store holds a newer click of the user."""


Progress = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""Given how many messages there are to read, makes what is told how many are read."""


def _silent(total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda done: None)


def run(settings: Settings, progress: Progress = _silent) -> Rebuilt:
    """Append every click that the group of the workers has committed. Raises Unavailable."""
    kafka = settings.kafka
    with closing(GroupOffsets(kafka, kafka.clicks_topic, settings.worker.group_id)) as group:
        committed = group.committed()
    retained = retained_offsets(kafka, kafka.clicks_topic)
    wanted = {p: range(r.start, min(r.stop, committed[p])) for p, r in retained.items()}
    rules = click_rules(settings.clicks, framed_reader(settings.schema_registry, Click))
    read = behind = done = 0
    with (
        closing(session_store(settings)) as sessions,
        closing(read_offsets(kafka, kafka.clicks_topic, wanted)) as messages,
        progress(sum(map(len, wanted.values()))) as show,
    ):
        while batch := list(islice(messages, BATCH)):
            clicks, read_from = decide.clicks(decide.decode(batch, rules))
            histories = sessions.append(clicks, [message.place for message in read_from])
            read += len(clicks)
            behind += histories.count([])
            done += len(batch)
            show(done)
    return Rebuilt(read, behind)
