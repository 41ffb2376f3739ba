"""`nextclick dlq redrive`: dead letters go back to the clicks topic, and a worker decides anew.

    1  read a part of the letters that are due
    2  produce those that might be accepted: the original bytes and key, hence the same event_id
    3  wait until Kafka has acknowledged them
    4  commit the part's offsets

4 never runs ahead of 3, so a crash anywhere loses no letter; it repeats those of one part at
most, and a click that is repeated is appended once and answered alike while it is held
(shared/redis/sessions.py). Each reason has a consumer group of its own, so a redrive for one reason
leaves the letters of the others for later. Letters that arrive meanwhile wait for the next redrive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from contextlib import ExitStack, closing
from itertools import islice

from nextclick.services.dlq import dead_letters
from nextclick.shared.kafka import GroupOffsets, Publisher, offsets_held, read_offsets
from nextclick.shared.runtime.settings import Settings

PART = 100
"""Letters in hand at a time: each may have close to a megabyte."""


def run(
    settings: Settings,
    reasons: Collection[str],
    *,
    from_beginning: bool = False,
    limit: int = 0,
    dry_run: bool = False,
) -> tuple[int, Counter[str]]:
    """Redrive what is due for these reasons.

    Returns how many letters went, and how many did not by why. With `dry_run` nothing is done.
    """
    kafka = settings.kafka
    held = offsets_held(kafka, kafka.dlq_topic)
    partitions = offsets_held(kafka, kafka.clicks_topic)  # a missing one is refused, not created
    gone, skipped = 0, Counter[str]()
    with ExitStack() as stack:
        groups = {
            reason: stack.enter_context(
                closing(GroupOffsets(kafka, kafka.dlq_topic, f"{settings.dlq.group_id}.{reason}"))
            )
            for reason in reasons
        }
        committed = {
            reason: dead_letters.still_valid(group.committed(), held)
            for reason, group in groups.items()
        }
        done = {reason: {} for reason in groups} if from_beginning else committed
        wanted = dead_letters.unread(held, done)
        messages = stack.enter_context(closing(read_offsets(kafka, kafka.dlq_topic, wanted)))
        waiting = dead_letters.up_to(limit, dead_letters.due(messages, done))
        publisher = Publisher(kafka)
        while part := list(islice(waiting, PART)):  # 1
            obstacles = [dead_letters.obstacle(letter) for letter in part]
            going = [letter for letter, why in zip(part, obstacles, strict=True) if why is None]
            if not dry_run:
                publisher.send(
                    dead_letters.redriven(kafka.clicks_topic, partitions, letter)
                    for letter in going
                )  # 2
                publisher.wait_acknowledged()  # 3
                for reason, offsets in dead_letters.after(part, committed).items():
                    groups[reason].commit(offsets)  # 4
            gone += len(going)
            skipped.update(why for why in obstacles if why is not None)
    return gone, skipped
