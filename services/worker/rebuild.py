"""`nextclick sessions rebuild`: Redis has lost the sessions; the clicks topic still has the clicks.

Reads what the workers have dealt with, as far back as the topic goes, and appends it again. What is
there already stays as it is (shared/redis/sessions.py), so it may be run again, and beside
workers. But a user who clicks meanwhile, before its clicks were read, starts anew: stop the workers
first if that matters.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from itertools import islice

from nextclick.services.worker import decide
from nextclick.shared.kafka import GroupOffsets, offsets_held, read_offsets
from nextclick.shared.redis import session_store
from nextclick.shared.runtime.settings import Settings

BATCH = 1000


@dataclass(frozen=True)
class Rebuilt:
    """What was found, in clicks."""

    read: int
    behind: int
    """Not appended: their users have clicked since, or were there already."""


def run(settings: Settings) -> Rebuilt:
    """Append every click that the workers' group has committed; raises Unavailable."""
    kafka = settings.kafka
    with closing(GroupOffsets(kafka, kafka.clicks_topic, settings.worker.group_id)) as group:
        committed = group.committed()
    held = offsets_held(kafka, kafka.clicks_topic)
    wanted = {p: range(r.start, min(r.stop, committed[p])) for p, r in held.items()}
    read = behind = 0
    with (
        closing(session_store(settings)) as sessions,
        closing(read_offsets(kafka, kafka.clicks_topic, wanted)) as messages,
    ):
        while batch := list(islice(messages, BATCH)):
            clicks, places = decide.clicks(decide.decode(batch))
            histories = sessions.append(clicks, places)
            read += len(clicks)
            behind += histories.count([])
    return Rebuilt(read, behind)
