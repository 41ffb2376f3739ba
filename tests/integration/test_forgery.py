"""What users call themselves stays data: in Redis keys, on the topics, and on a terminal."""

from __future__ import annotations

import io
import json

import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rich.console import Console

from nextclick.services.cli import explain
from nextclick.services.worker import decide
from nextclick.shared.click_rules import ClickRules
from nextclick.shared.errors import BadClick
from nextclick.shared.kafka import Publisher, ensure_topics, read_offsets, retained_offsets
from nextclick.shared.messages import Message, OutMessage, of_user
from nextclick.shared.model import Explanation, Ranking
from nextclick.shared.redis import RedisSessions
from nextclick.shared.runtime.settings import KafkaSettings
from nextclick.shared.schemas import Click, ScoredItem, decode_click
from tests.backend import Backend

RULES = ClickRules()
ESCAPE = "\x1b]0;owned\x07\x1b[2J"
HOSTILE = [
    "a\r\nSET x 1\r\n",
    "\x00",
    ESCAPE,
    "*{tag}:?[a-z]\\",
    "\u202e\u2028\ufeff\uffff",
    "\U0001f415\U000e0041\U0010ffff",
    "[red]x[/]",
    "\x9b31m",
]
ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=128)


@hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(users=st.sets(st.one_of(ids, st.sampled_from(HOSTILE)), min_size=1, max_size=8))
def test_each_user_has_one_redis_key(backend: Backend, key_prefix: str, users: set[str]) -> None:
    client = redis.Redis.from_url(backend.redis_url)
    before = set(client.scan_iter(match="*", count=1000))
    store = RedisSessions(
        backend.redis_url, key_prefix=key_prefix, gap_ms=0, ttl_seconds=60, timeout_seconds=5
    )
    store.append([Click(event_id="e", user_id=u, item_id=u, timestamp=1) for u in users])
    after = set(client.scan_iter(match="*", count=1000))
    theirs = {key_prefix.encode() + user.encode() for user in users}
    assert after - before == theirs - before
    client.delete(*theirs)
    client.close()
    store.close()


def test_hostile_names_come_back_from_kafka_as_they_went(kafka: KafkaSettings) -> None:
    sent: list[OutMessage] = []
    for text in HOSTILE:
        click = Click(event_id=text[:64], user_id=text, item_id=text, timestamp=1)
        answer = decide.recommendation(
            click, [text], Ranking([ScoredItem(text, 1.0)], None), "v", 1
        )
        sent.append(of_user(kafka.recommendations_topic, answer))
        raw = Message("clicks", 0, 1, text.encode(), text.encode(), (("x", text.encode()),))
        (read,) = decide.decode([raw], RULES)
        assert isinstance(read.outcome, BadClick)
        sent.append(decide.dead_letter(kafka.dlq_topic, raw, read.outcome, 1))
    ensure_topics(kafka, [kafka.recommendations_topic, kafka.dlq_topic])
    publisher = Publisher(kafka)
    publisher.send(sent)
    publisher.wait_acknowledged()
    for topic in (kafka.recommendations_topic, kafka.dlq_topic):
        got = read_offsets(kafka, topic, retained_offsets(kafka, topic))
        came = {(m.key, m.value, m.headers) for m in got}
        assert came == {(m.key, m.value, m.headers) for m in sent if m.topic == topic}


def test_half_a_surrogate_pair_is_no_text() -> None:
    for field in ("event_id", "user_id", "item_id", "event_type"):
        click = {"event_id": "e", "user_id": "u", "item_id": "i", "timestamp": 1, field: "\ud800"}
        for value in (json.dumps(click), json.dumps(click, ensure_ascii=False)):
            raw = Message("clicks", 0, 0, None, value.encode("utf-8", "surrogatepass"))
            (read,) = decide.decode([raw], RULES)
            assert isinstance(read.outcome, BadClick)
            assert read.outcome.reason == "not_json"
    assert decode_click(b'{"event_id":"e","user_id":"\\ud83d\\udc15","item_id":"i","timestamp":1}')


def test_an_explanation_shows_hostile_items_as_text() -> None:
    stream = io.StringIO()
    items = [ScoredItem(text, 0.1) for text in HOSTILE]
    explained = Explanation([ESCAPE, "[red]x[/]"], items, [[0.0, 0.0]] * len(items))
    explain.show(ESCAPE, explained, Console(file=stream, width=200, force_terminal=True))
    shown = stream.getvalue()
    assert "\x1b]0;" not in shown
    assert "\x1b[2J" not in shown
    assert "\x07" not in shown
    assert "\x9b" not in shown
    assert "\u202e" not in shown
    assert "[red]x[/]" in shown
