"""The trainer's collector on a prepared stream, without Kafka: only the disk can go wrong.

And a look at what an event log holds, as it lies on the disk.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deltalake import DeltaTable

from nextclick.shared.messages import Message
from nextclick.shared.runtime.retry import RetryUntilAvailable
from nextclick.shared.schemas import Click
from nextclick.trainer.collect import EventLog
from nextclick.trainer.collect.collector import Collector
from tests.faults.oracle import Verdict
from tests.integration.traffic import make_clicks

PARTITIONS = 2
CLICKS = 9
"""On each partition."""
TOPIC_ID = "a"
_POLLED = 4
"""Messages of each partition at once."""


def stream(partition: int) -> list[Click]:
    """The clicks on a partition."""
    return make_clicks(CLICKS, seed=partition)


class _Consumer:
    """Reads on from where the log ends, and writes down what is committed."""

    def __init__(self, log: EventLog, committed: Path) -> None:
        self._next = dict.fromkeys(range(PARTITIONS), 0) | log.next_offsets(range(PARTITIONS))
        self._committed = committed

    def poll(self, max_messages: int, timeout: float) -> list[Message]:
        messages = []
        for partition, first in self._next.items():
            for offset, click in list(enumerate(stream(partition)))[first : first + _POLLED]:
                value = click.model_dump_json().encode()
                messages.append(Message("clicks", partition, offset, None, value))
                self._next[partition] = offset + 1
        return messages

    def at_end(self) -> bool:
        return all(offset == CLICKS for offset in self._next.values())

    def topic_id(self) -> str:
        return TOPIC_ID

    def commit_now(self, offsets: Mapping[int, int]) -> None:
        file = os.open(self._committed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for partition, offset in offsets.items():
            os.write(file, f"{partition} {offset}\n".encode())
        os.close(file)


def collect(folder: Path, committed: Path, prepare: Callable[[], None] = lambda: None) -> None:
    """Log everything that is not yet logged, an append after each poll."""
    prepare()
    event_log = EventLog(str(folder))
    event_log.topic_id = TOPIC_ID
    consumer = _Consumer(event_log, committed)
    until_available = RetryUntilAvailable(threading.Event(), logging.getLogger("collect"))
    collector = Collector(consumer, event_log, until_available, 0.0)  # type: ignore[arg-type]
    while not consumer.at_end():
        collector.step()
    collector.flush()


def held(folder: Path) -> list[str]:
    """Every click in an event log, by partition and offset, as often as it is there."""
    if not list(folder.glob("_delta_log/*.json")):
        return []
    table = DeltaTable(str(folder)).to_pyarrow_table()
    by_offset = [("kafka_partition", "ascending"), ("kafka_offset", "ascending")]
    return [str(event_id) for event_id in table.sort_by(by_offset)["event_id"].to_pylist()]


def strays(folder: Path) -> list[str]:
    """Files in the folder of an event log that its table does not know of."""
    table = DeltaTable(str(folder))
    known = {Path(path).name for path in table.file_uris()}
    return sorted(path.name for path in folder.rglob("*.parquet") if path.name not in known)


def committed_clicks(committed: Path) -> set[str]:
    """What Kafka would not give to the group again."""
    if not committed.exists():
        return set()
    lines = [line.split() for line in committed.read_text().splitlines()]
    return {
        click.event_id
        for partition, offset in lines
        for click in stream(int(partition))[: int(offset)]
    }


def judge_log(clicks: Sequence[Click], event_ids: Sequence[str]) -> Verdict:
    """Is every click in a log, once?"""
    times = Counter(event_ids)
    ids = {click.event_id for click in clicks}
    assert set(times) <= ids
    return Verdict(
        sent=len(ids),
        answered_once=sum(times[event_id] == 1 for event_id in ids),
        lost=sum(times[event_id] == 0 for event_id in ids),
        doubled=sum(times[event_id] > 1 for event_id in ids),
        wrong_histories=0,
        wrong_lists=0,
    )


def leftovers(folder: Path) -> list[str]:
    """What a writer that died has left half done."""
    return sorted(path.name for path in folder.rglob(".*"))
