"""The worker as a real process against real Kafka and Redis."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from nextclick.shared.kafka import TopicReader
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from tests.conftest import Launch
from tests.integration.traffic import Answers, Shop, check, make_clicks, publish_model
from tests.waiting import until

Logs = Callable[[str], str]


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
def shop(kafka: KafkaSettings, answers: Answers) -> Shop:
    return Shop(kafka)


def test_every_click_is_answered_once_while_the_model_is_swapped(
    kafka: KafkaSettings, answers: Answers, shop: Shop, registry: Path, launch: Launch, logs: Logs
) -> None:
    clicks = make_clicks(3000)
    first = publish_model(registry, seed=1)
    launch("worker")

    shop.send(clicks[:1000])
    answers.wait_for({c.event_id for c in clicks[:1000]})
    second = publish_model(registry, seed=2)
    for start in range(1000, 2000, 20):  # in mid-stream, not between two streams
        shop.send(clicks[start : start + 20])
    until(lambda: f"serving model {second}" in logs("worker"), "the swap")
    shop.send(clicks[2000:])
    got = answers.wait_for({c.event_id for c in clicks})

    assert Counter(a.event_id for a in got) == Counter(c.event_id for c in clicks)
    check(clicks, got, registry)
    in_order_of_scoring = sorted(got, key=lambda a: a.scored_at)
    runs = [
        version for version, _ in itertools.groupby(a.model_version for a in in_order_of_scoring)
    ]
    assert runs == [first, second]
    unknown = [a for a in got if a.fallback == "unknown_items"]
    assert unknown
    assert all(set(a.history) == {"unheard-of"} for a in unknown)


# With a name the next worker is the heir of the killed one at once, not 10 s later.
SLOW_AND_NAMED = {f"{PREFIX}WORKER__INSTANCE_ID": "w", f"{PREFIX}WORKER__MAX_BATCH": "8"}


@pytest.mark.long
def test_a_killed_worker_loses_nothing_and_repeats_itself_exactly(
    kafka: KafkaSettings, answers: Answers, shop: Shop, registry: Path, launch: Launch
) -> None:
    clicks = make_clicks(1000, seed=3)
    publish_model(registry, seed=1)
    shop.send(clicks)
    for answered_before_the_kill in (1, 250, 500):
        worker = launch("worker", **SLOW_AND_NAMED)
        until(lambda n=answered_before_the_kill: len(answers.peek()) > n, "some answers")
        worker.kill()
        worker.wait()
        assert len({a.event_id for a in answers.read()}) < len(clicks), "killed too late to matter"
    launch("worker", **SLOW_AND_NAMED)
    got = answers.wait_for({c.event_id for c in clicks})

    check(clicks, got, registry)  # the repeated ones too: same history, same list
    assert {a.event_id for a in got} == {c.event_id for c in clicks}


@pytest.mark.long
def test_workers_come_and_go_while_clicks_flow(
    kafka: KafkaSettings, answers: Answers, shop: Shop, registry: Path, launch: Launch, logs: Logs
) -> None:
    clicks = make_clicks(3000, seed=6)
    publish_model(registry, seed=1)
    first = launch("worker")
    shop.send(clicks[:500])
    answers.wait_for({c.event_id for c in clicks[:500]})
    launch("worker")
    owned = re.compile(r"assigned partitions \[\d")
    rest = iter(clicks[500:])

    def send_some_and_see() -> bool:  # the rebalance happens in mid-stream
        shop.send(list(itertools.islice(rest, 5)))
        return len(owned.findall(logs("worker"))) >= 2  # all at first, then half of them

    until(send_some_and_see, "partitions for both workers")
    first.terminate()
    assert first.wait(30) == 0
    shop.send(list(rest))
    got = answers.wait_for({c.event_id for c in clicks})
    check(clicks, got, registry)


def test_what_is_no_click_becomes_a_dead_letter_and_the_stream_goes_on(
    kafka: KafkaSettings, answers: Answers, shop: Shop, registry: Path, launch: Launch
) -> None:
    good = make_clicks(20, seed=8)
    bad: list[tuple[bytes | None, str]] = [
        (None, "empty"),
        (b"", "empty"),
        (b"not json", "not_json"),
        (b"\xff\xfe\x00", "not_json"),
        (b"[" * 5000, "not_json"),
        (b"{}", "invalid"),
        (b'{"event_id":"e","user_id":"u","item_id":"i"}', "invalid"),
        (b'{"event_id":"e","user_id":"u","item_id":true,"timestamp":1}', "invalid"),
        (b'{"event_id":"e","user_id":"u","item_id":"i","timestamp":"now"}', "invalid"),
        (b'{"event_id":"e","user_id":"","item_id":"i","timestamp":1}', "invalid"),
        (b"x" * 950_000, "oversized"),
    ]
    publish_model(registry, seed=1)
    launch("worker")
    shop.send_raw([(b"key", value) for value, _ in bad])
    shop.send(good)
    got = answers.wait_for({c.event_id for c in good})
    check(good, got, registry)

    letters = _read_with_headers(kafka, kafka.dlq_topic, len(bad))
    assert Counter(headers["error_class"] for _, _, headers in letters) == Counter(
        reason for _, reason in bad
    )
    assert all(
        key == b"key" and headers["topic"] == kafka.clicks_topic for key, _, headers in letters
    )
    values = [value for _, value, headers in letters if headers["error_class"] != "oversized"]
    assert sorted(v or b"" for v in values) == sorted(v or b"" for v, r in bad if r != "oversized")
    (cut,) = [(value, h) for _, value, h in letters if h["error_class"] == "oversized"]
    assert cut[0] == b"x" * 65_536
    assert cut[1]["original_bytes"] == "950000"


def test_a_broken_model_is_refused_and_the_old_one_goes_on(
    kafka: KafkaSettings, answers: Answers, shop: Shop, registry: Path, launch: Launch, logs: Logs
) -> None:
    clicks = make_clicks(300, seed=9)
    old = publish_model(registry, seed=1)
    launch("worker")
    shop.send(clicks[:100])
    answers.wait_for({c.event_id for c in clicks[:100]})

    broken = publish_model(registry, seed=2)
    until(lambda: f"serving model {broken}" in logs("worker"), "the swap")
    Registry(str(registry)).rollback()
    until(lambda: logs("worker").count(f"serving model {old}") == 2, "the rollback")
    weights = registry / broken / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    pointer = registry / "current.json"
    pointer.write_text(pointer.read_text().replace(old, broken))
    until(lambda: f"model {broken} cannot serve, keeping {old}" in logs("worker"), "the refusal")
    shop.send(clicks[100:])
    got = answers.wait_for({c.event_id for c in clicks})
    assert {
        a.model_version for a in got if a.event_id not in {c.event_id for c in clicks[:100]}
    } == {old}
    assert logs("worker").count("cannot serve") == 1  # said once, not once a poll


def test_a_worker_without_a_model_waits_for_the_first(
    kafka: KafkaSettings, answers: Answers, shop: Shop, registry: Path, launch: Launch, logs: Logs
) -> None:
    clicks = make_clicks(10, seed=10)
    shop.send(clicks)
    launch("worker")
    until(lambda: "has no model yet" in logs("worker"), "the worker says what it waits for")
    assert answers.read() == []
    publish_model(registry, seed=1)
    answers.wait_for({c.event_id for c in clicks})


def _read_with_headers(
    kafka: KafkaSettings, topic: str, count: int
) -> list[tuple[bytes | None, bytes | None, dict[str, str]]]:
    reader = TopicReader(kafka, [topic])
    found: list[tuple[bytes | None, bytes | None, dict[str, str]]] = []

    def read() -> bool:
        for message in reader.poll(timeout=0.2):
            headers = {name: value.decode() for name, value in message.headers}
            found.append((message.key, message.value, headers))
        return len(found) >= count

    until(read, f"{count} dead letters")
    reader.close()
    return found
