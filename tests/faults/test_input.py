"""Whatever is on the clicks topic: clicks are answered, the rest are dead letters."""

from __future__ import annotations

from collections import Counter

import numpy as np
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)

from nextclick.shared.kafka import TopicReader
from nextclick.shared.schemas import Click
from tests.faults.conftest import MakeStand, Report, each_guarantee
from tests.faults.stand import Stand, Stopwatch
from tests.integration.traffic import make_clicks

CLICK = b'{"event_id":"e","user_id":"u","item_id":"1","timestamp":%s}'
GARBAGE: list[tuple[bytes | None, bytes | None, str]] = [
    (None, None, "empty"),
    (b"", b"", "empty"),
    (b"user", None, "empty"),  # a tombstone
    (b"user", b"\xff\xfe" * 100, "not_json"),
    (b"user", b"[" * 50_000, "not_json"),
    (b"user", CLICK % b"NaN", "invalid"),
    (b"user", CLICK % b"1e999", "invalid"),
    (b"user", CLICK % (b"9" * 4000), "invalid"),
    (b"user", CLICK % b"[1]", "invalid"),
    (b"\x00" * 100, b"x" * 900_000, "oversized"),
]
PLANES = ["é", "中", "\U0001f415", "\U000e0041", "\U000f0000", "\U0010ffff", "\u202e", "a\x00b"]


def test_garbage_among_clicks(stand: MakeStand, report: Report) -> None:
    ours = stand()
    clicks = make_clicks(1000, seed=1)
    for i, plane in enumerate(PLANES):  # in every id, and known as one user throughout
        for j in range(12):
            item = plane if j % 3 else str(i + 1)
            at = clicks[-1].timestamp + j
            clicks.append(Click(event_id=f"{plane}{j}", user_id=plane, item_id=item, timestamp=at))
    rng = np.random.default_rng(1)
    for at in rng.integers(len(clicks), size=300):  # up to an hour late
        late = clicks[at].timestamp - int(rng.integers(3_600_000))
        clicks[at] = clicks[at].model_copy(update={"timestamp": max(0, late)})
    doubles = []
    for i, click in enumerate(clicks):
        doubles += [click, clicks[i - 1]] if i % 7 == 3 else [click]
    watch = Stopwatch()
    worker = ours.worker()
    for start in range(0, len(doubles), 100):
        ours.send(doubles[start : start + 100])
        ours.send_garbage([(key, value) for key, value, _ in GARBAGE])
    ours.wait_for_all()
    assert worker.is_alive()
    rounds = -(-len(doubles) // 100)
    assert reasons(ours) == Counter([reason for *_, reason in GARBAGE] * rounds)
    report("garbage, doubles, late clicks, at_least_once", ours.verdict(), watch.seconds())


def test_a_user_who_clicks_for_ever(long: bool, stand: MakeStand, report: Report) -> None:
    """No more is kept of it than of anybody else."""
    ours = stand()
    ours.send(make_clicks(100_000 if long else 5_000, users=1, seed=2))
    watch = Stopwatch()
    ours.worker()
    ours.wait_for_all(300)
    report("one user clicks for ever, at_least_once", ours.verdict(), watch.seconds())


def reasons(ours: Stand) -> Counter[str]:
    """Dead letters by reason."""
    reader = TopicReader(ours.kafka, [ours.kafka.dlq_topic])
    found: Counter[str] = Counter()
    while messages := reader.poll(timeout=1.0):
        found.update((dict(m.headers)["error_class"] or b"").decode() for m in messages)
    reader.close()
    return found


@each_guarantee("exactly_once")
def test_the_dead_letters_topic_takes_small_messages_only(
    guarantee: str, stand: MakeStand, report: Report
) -> None:
    ours = stand(guarantee)
    at_most = ConfigEntry("max.message.bytes", "30000", incremental_operation=AlterConfigOpType.SET)
    topic = ConfigResource(
        ConfigResource.Type.TOPIC, ours.kafka.dlq_topic, incremental_configs=[at_most]
    )
    admin = AdminClient({"bootstrap.servers": ours.kafka.bootstrap_servers})
    admin.incremental_alter_configs([topic])[topic].result()
    clicks = make_clicks(1000, seed=2)
    ours.send(clicks[:500])
    noise = np.random.default_rng(1)  # does not compress
    ours.send_garbage([(b"user", noise.bytes(900_000)), (b"k" * 20_000, noise.bytes(60_000))])
    ours.send(clicks[500:])
    watch = Stopwatch()
    worker = ours.worker()
    ours.wait_for_all()
    assert worker.is_alive()
    report(f"dead letters too large for their topic, {guarantee}", ours.verdict(), watch.seconds())
