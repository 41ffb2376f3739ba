from __future__ import annotations

from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextclick.services.worker import decide
from nextclick.shared.click_rules import ClickRules
from nextclick.shared.errors import BadClick
from nextclick.shared.messages import Message, of_user
from nextclick.shared.model import Ranking
from nextclick.shared.schemas import SCHEMA_ID_HEADER, Click, Recommendation, ScoredItem


def decode(messages: list[Message]) -> list[decide.DecodedMessage]:
    return decide.decode(messages, ClickRules())


def message(value: bytes | None, offset: int = 7) -> Message:
    return Message("clicks", 3, offset, b"key", value)


def click_message(user: str, event: str, offset: int = 0) -> Message:
    click = Click(event_id=event, user_id=user, item_id="i", timestamp=1)
    return message(click.model_dump_json().encode(), offset)


@given(
    users=st.lists(st.sampled_from(["a", "b", None]), max_size=80),
    limit=st.integers(1, 5),
    size=st.integers(1, 30),
)
def test_batches_keep_the_order_the_size_and_the_limit(
    users: list[str | None], limit: int, size: int
) -> None:
    """Between two commits, which come whenever nothing more may be taken."""
    everything = decode(
        [
            message(b"bad", i) if user is None else click_message(user, f"e{i}", i)
            for i, user in enumerate(users)
        ]
    )
    waiting, taken = deque(everything), list[decide.DecodedMessage]()
    uncommitted, since_commit = Counter[str](), list[decide.DecodedMessage]()
    while waiting:
        batch = decide.take_batch(waiting, size, uncommitted, limit)
        if not batch:
            assert max(uncommitted.values()) == limit
            uncommitted.clear()
            since_commit.clear()
        since_commit += batch
        assert len(batch) <= size
        assert uncommitted == decide.clicks_per_user(since_commit)
        assert max(uncommitted.values(), default=0) <= limit
        taken += batch
    assert taken == everything


def test_decoding_keeps_the_reason() -> None:
    good, bad = decode([click_message("u", "e"), message(b"{")])
    assert isinstance(good.outcome, Click)
    assert isinstance(bad.outcome, BadClick)
    assert decide.bad_clicks([good, bad]) == [(bad.message, bad.outcome)]


def test_an_event_that_is_no_click_is_neither_answered_nor_a_dead_letter() -> None:
    shown = Click(event_id="e", user_id="key", item_id="i", timestamp=1, event_type="Impression")
    batch = decode([message(shown.model_dump_json().encode()), click_message("key", "f")])
    assert [click.event_id for click in decide.clicks(batch)[0]] == ["f"]
    assert decide.bad_clicks(batch) == []
    assert decide.clicks_per_user(batch) == {"key": 1}


def test_an_answer_carries_all_that_recomputing_it_takes() -> None:
    click = Click(event_id="e", user_id="ü", item_id="2", timestamp=5)
    ranking = Ranking([ScoredItem(item_id="3", score=0.5)], None)
    answer = decide.recommendation(click, ["1", "2"], ranking, "v1", now_ms=9)
    out = of_user("recommendations", answer)
    assert (out.topic, out.key) == ("recommendations", "ü".encode())
    assert Recommendation.model_validate_json(out.value or b"") == Recommendation(
        event_id="e",
        user_id="ü",
        items=[ScoredItem(item_id="3", score=0.5)],
        model_version="v1",
        history=["1", "2"],
        click_timestamp=5,
        scored_at=9,
    )


@pytest.mark.parametrize(
    "value",
    [None, b"", b"\xff\x00", b"x" * decide.MAX_DEAD_LETTER_BYTES],
    ids=["none", "empty", "bytes", "longest"],
)
def test_a_dead_letter_is_the_message_itself_and_why(value: bytes | None) -> None:
    letter = decide.dead_letter("clicks.dlq", message(value), BadClick("empty", "wh\ny"), 42)
    assert (letter.topic, letter.key, letter.value) == ("clicks.dlq", b"key", value)
    assert dict(letter.headers) == {
        "topic": b"clicks",
        "partition": b"3",
        "offset": b"7",
        "error_class": b"empty",
        "error": b"wh\ny",
        "time": b"42",
    }


def test_a_huge_dead_letter_is_cut_and_says_so() -> None:
    value = b"x" * (decide.MAX_DEAD_LETTER_BYTES + 1)
    letter = decide.dead_letter("clicks.dlq", message(value), BadClick("oversized", ""), 0)
    assert letter.value == value[:-1]
    assert dict(letter.headers)["original_bytes"] == str(len(value)).encode()


def test_a_dead_letter_fits_a_topic_for_small_messages() -> None:
    assert decide.dead_letter_bytes(None) == decide.MAX_DEAD_LETTER_BYTES
    assert decide.dead_letter_bytes(1_048_588) == decide.MAX_DEAD_LETTER_BYTES
    assert decide.dead_letter_bytes(1_000) == 0
    keep = decide.dead_letter_bytes(50_000)
    error = BadClick("oversized", "é" * 5000)
    original = Message("clicks" * 40, 3, 7, b"k" * 50_000, b"x" * 100_000)
    letter = decide.dead_letter("clicks.dlq", original, error, 42, keep)
    sizes = [len(name) + len(value) for name, value in letter.headers]
    assert len(letter.key or b"") + len(letter.value or b"") + sum(sizes) < 50_000
    assert dict(letter.headers)["original_bytes"] == b"100000"


def test_an_error_text_of_any_length_and_letters_fits_a_header() -> None:
    letter = decide.dead_letter("d", message(b"?"), BadClick("invalid", "\ud800" + "é" * 5000), 0)
    error = dict(letter.headers)["error"].decode()
    assert error == "?" + "é" * 999


def test_a_message_without_a_key_stays_without_one() -> None:
    bare = Message("clicks", 0, 0, None, b"?")
    assert decide.dead_letter("d", bare, BadClick("not_json", "x"), 0).key is None


@pytest.mark.parametrize("key", [0, 1000, 100_000, 500_000, 999_000])
def test_a_dead_letter_always_fits_a_kafka_message(key: int) -> None:
    """Also where the key is huge: a letter that Kafka refuses would stop the worker for good."""
    big = Message("clicks", 0, 0, b"k" * key, b"v" * (1_040_000 - key))
    letter = decide.dead_letter("d", big, BadClick("oversized", "é" * 5000), 0)
    size = len(letter.key or b"") + len(letter.value or b"")
    size += sum(len(name) + len(value) + 10 for name, value in letter.headers)
    assert size < 1_000_000  # librdkafka's message.max.bytes


def test_an_answer_says_why_the_model_did_not_decide() -> None:
    click = Click(event_id="e", user_id="u", item_id="2", timestamp=5)
    answer = decide.recommendation(click, ["2"], Ranking([], "unknown_items"), "v1", now_ms=9)
    assert answer.fallback == "unknown_items"


def test_a_dead_letter_keeps_the_schema_that_a_header_names() -> None:
    guid = (SCHEMA_ID_HEADER, b"\x01" + bytes(16))
    framed = Message("clicks", 0, 7, b"k", b"\x02e", (guid, ("other", b"x"), ("replayed", b"1")))
    ((_, error),) = decide.bad_clicks(decode([framed]))
    assert error.reason == "framed"
    letter = decide.dead_letter("clicks.dlq", framed, error, 0)
    assert guid in letter.headers
    too_long = Message("clicks", 0, 7, b"k", b"\x02e", ((SCHEMA_ID_HEADER, b"\x01" * 200),))
    assert guid[0] not in dict(decide.dead_letter("clicks.dlq", too_long, error, 0).headers)
