"""`nextclick dlq redrive`: sends dead letters to the clicks topic again.

    1  read a batch of pending dead letters
    2  produce those that a worker may accept: the original key and value, so the same event_id
    3  wait until Kafka has acknowledged them
    4  commit the offsets of the batch

Step 4 comes after step 3, so a crash loses no dead letter. It repeats at most one batch; a repeated
click is appended once, and gets the same answer as long as the session store holds it
(shared/redis/sessions.py). Each reason has its own consumer group, so a redrive for one reason does
not skip the dead letters of others. Those that arrive meanwhile wait for the next redrive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from contextlib import ExitStack, closing
from itertools import islice

from nextclick.services.dlq import dead_letters
from nextclick.shared.kafka import GroupOffsets, Publisher, read_offsets, retained_offsets
from nextclick.shared.runtime.settings import Settings

BATCH_SIZE = 100
"""Dead letters in memory at a time; each may have almost a megabyte."""


def run(
    settings: Settings,
    reasons: Collection[str],
    *,
    from_beginning: bool = False,
    limit: int = 0,
    dry_run: bool = False,
    is_forgotten: dead_letters.IsForgotten = dead_letters.of_nobody,
) -> tuple[int, Counter[str]]:
    """Redrive the pending dead letters with these reasons.

    Returns the number of redriven ones, and the numbers of skipped ones by cause, among them those
    of forgotten users. With `dry_run` nothing is sent or committed. Raises Unavailable or
    ConfigurationError.
    """
    kafka = settings.kafka
    retained = retained_offsets(kafka, kafka.dlq_topic)
    partitions = retained_offsets(kafka, kafka.clicks_topic)  # raises if the topic is missing
    redriven, skipped = 0, Counter[str]()
    with ExitStack() as stack:
        groups = {
            reason: stack.enter_context(
                closing(GroupOffsets(kafka, kafka.dlq_topic, f"{settings.dlq.group_id}.{reason}"))
            )
            for reason in reasons
        }
        committed = {
            reason: dead_letters.valid_offsets(group.committed(), retained)
            for reason, group in groups.items()
        }
        done = {reason: {} for reason in groups} if from_beginning else committed
        wanted = dead_letters.unread_offsets(retained, done)
        messages = stack.enter_context(closing(read_offsets(kafka, kafka.dlq_topic, wanted)))
        pending = dead_letters.limited(limit, dead_letters.pending(messages, done), is_forgotten)
        publisher = Publisher(kafka)
        while batch := list(islice(pending, BATCH_SIZE)):  # 1
            skip_reasons = [dead_letters.skip_reason(letter, is_forgotten) for letter in batch]
            accepted = [
                dead_letter
                for dead_letter, reason in zip(batch, skip_reasons, strict=True)
                if reason is None
            ]
            if not dry_run:
                publisher.send(
                    dead_letters.redriven_message(kafka.clicks_topic, partitions, dead_letter)
                    for dead_letter in accepted
                )  # 2
                publisher.wait_acknowledged()  # 3
                for reason, offsets in dead_letters.offsets_to_commit(batch, committed).items():
                    groups[reason].commit(offsets)  # 4
            redriven += len(accepted)
            skipped.update(why for why in skip_reasons if why is not None)
    return redriven, skipped
