from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextclick.services.dlq import cli, dead_letters
from nextclick.services.dlq.dead_letters import DeadLetter, Offsets
from nextclick.services.worker import decide
from nextclick.shared.errors import BadClick, ConfigurationError
from nextclick.shared.messages import Message, OutMessage
from nextclick.shared.schemas import MAX_CLICK_BYTES, REASONS, SCHEMA_ID_HEADER

HEADERS = ("topic", "partition", "offset", "error_class", "error", "time", "redriven", "x")
names = st.sampled_from(HEADERS) | st.text(max_size=5)
values = st.none() | st.binary(max_size=20) | st.from_regex(rb"[0-9]{1,20}", fullmatch=True)


def arrived(out: OutMessage, partition: int = 0, offset: int = 0) -> Message:
    """What was produced, as read."""
    return Message(out.topic, partition, offset, out.key, out.value, out.headers)


def raw_dead_letter(
    reason: str = "invalid", value: bytes | None = b"{}", partition: int = 0, offset: int = 0
) -> Message:
    found = Message("clicks", 3, 7, b"key", value)
    return arrived(decide.dead_letter("dlq", found, BadClick(reason, "why"), 42), partition, offset)


@given(headers=st.lists(st.tuples(names, values)), key=values, value=values)
def test_any_headers_make_a_dead_letter(
    headers: list[tuple[str, bytes | None]], key: bytes | None, value: bytes | None
) -> None:
    dead_letter = dead_letters.read(Message("dlq", 1, 2, key, value, tuple(headers)))
    assert dead_letter.position == "1/2"
    assert dead_letter.reason in dead_letters.ALL_REASONS
    again = dead_letters.redriven_message("clicks", range(4), dead_letter)
    assert (again.key, again.value) == (key, value)


@given(
    key=st.none() | st.binary(),
    value=st.none() | st.binary(),
    times=st.integers(0, 5),
    schema=st.sampled_from([(), ((SCHEMA_ID_HEADER, b"\x01" + bytes(16)),)]),
)
def test_a_message_comes_back_as_it_was_however_often(
    key: bytes | None, value: bytes | None, times: int, schema: tuple[tuple[str, bytes], ...]
) -> None:
    message = Message("clicks", 3, 7, key, value, schema)
    for count in range(1, times + 1):
        dead = decide.dead_letter("dlq", message, BadClick("invalid", "why"), 42)
        out = dead_letters.redriven_message("clicks", range(4), dead_letters.read(arrived(dead)))
        assert (out.topic, out.partition, out.key, out.value) == ("clicks", 3, key, value)
        assert dict(out.headers) == {"redriven": str(count).encode()} | dict(schema)
        message = arrived(out, 3)
    last = decide.dead_letter("dlq", message, BadClick("invalid", "why"), 42)
    assert dead_letters.read(arrived(last)).redriven == times


def test_the_key_decides_where_the_partition_is_not_known_any_more() -> None:
    dead_letter = dead_letters.read(raw_dead_letter())
    assert dead_letters.redriven_message("clicks", range(4), dead_letter).partition == 3
    assert dead_letters.redriven_message("clicks", range(3), dead_letter).partition is None
    assert dead_letters.redriven_message("other", range(4), dead_letter).partition is None
    assert dead_letters.redriven_message("click", range(4), dead_letter).partition is None


def test_what_no_worker_could_accept_has_a_skip_reason() -> None:
    def why(value: bytes | None, key: bytes = b"", reason: str = "invalid") -> str | None:
        dead = decide.dead_letter("dlq", Message("c", 0, 0, key, value), BadClick(reason, ""), 0)
        return dead_letters.skip_reason(dead_letters.read(arrived(dead)))

    assert why(b"x" * MAX_CLICK_BYTES) is None
    assert "oversized" in (why(b"x" * (MAX_CLICK_BYTES + 1), reason="oversized") or "")
    assert "empty" in (why(None) or "")
    assert "empty" in (why(b"") or "")
    assert "cut" in (why(b"x" * (decide.MAX_DEAD_LETTER_BYTES + 1)) or "")
    assert "cut" in (why(b"{}", b"k" * (decide.MAX_DEAD_LETTER_KEY_BYTES + 1)) or "")


kinds = st.tuples(
    st.sampled_from(dead_letters.ALL_REASONS), st.integers(0, 2), st.sampled_from([b"", b"{}"])
)
runs = st.lists(
    st.tuples(
        st.sampled_from([None, *dead_letters.ALL_REASONS]), st.integers(0, 3), st.integers(1, 3)
    )
)


@given(kinds=st.lists(kinds, max_size=20), runs=runs)
def test_each_dead_letter_is_processed_once_whatever_the_reasons_limits_and_batches(
    kinds: list[tuple[str, int, bytes]], runs: list[tuple[str | None, int, int]]
) -> None:
    ends = Counter[int]()
    topic = []
    for reason, partition, value in kinds:
        topic.append(raw_dead_letter(reason, value, partition, ends[partition]))
        ends[partition] += 1
    held = {partition: range(ends[partition]) for partition in range(3)}
    committed: dict[str, Offsets] = {reason: {} for reason in dead_letters.ALL_REASONS}

    def redrive(reason: str | None, limit: int, size: int) -> list[DeadLetter]:
        done = {name: committed[name] for name in dead_letters.select_reasons(reason)}
        wanted = dead_letters.unread_offsets(held, done)
        messages = [m for m in topic if m.offset in wanted[m.partition]]
        dealt = list(dead_letters.limited(limit, dead_letters.pending(messages, done)))
        for start in range(0, len(dealt), size):
            for name, offsets in dead_letters.offsets_to_commit(
                dealt[start : start + size], done
            ).items():
                committed[name] = {**committed[name], **offsets}
        assert (
            not limit
            or sum(dead_letters.skip_reason(dead_letter) is None for dead_letter in dealt) <= limit
        )
        return dealt

    dealt = [dead_letter.position for run in (*runs, (None, 0, 2)) for dead_letter in redrive(*run)]
    assert Counter(dealt) == Counter(dead_letters.read(message).position for message in topic)


def test_offsets_to_commit_never_decrease() -> None:
    old, new = (dead_letters.read(raw_dead_letter("invalid", offset=offset)) for offset in (3, 8))
    assert dead_letters.offsets_to_commit([old], {"invalid": {0: 6}}) == {}
    assert dead_letters.offsets_to_commit([old, new], {"invalid": {0: 6}}) == {"invalid": {0: 9}}


def test_offsets_of_a_recreated_topic_are_dropped() -> None:
    held = {0: range(2, 5), 1: range(0)}
    assert dead_letters.valid_offsets({0: 5, 1: 3, 2: 1}, held) == {0: 5}


def test_the_newest_are_kept_and_all_are_counted() -> None:
    def at(time: int, reason: str, offset: int) -> Message:
        headers = (("error_class", reason.encode()), ("time", str(time).encode()))
        return Message("dlq", 0, offset, None, b"", headers)

    topic = [at(5, "invalid", 0), at(9, "empty", 1), at(7, "invalid", 2), at(6, "invalid", 3)]
    found, counts = dead_letters.newest(topic, ("invalid",), 2)
    assert [dead_letter.position for dead_letter in found] == ["0/3", "0/2"]
    assert counts == {"invalid": 3, "empty": 1}


def test_an_unknown_reason_is_other_and_a_malformed_time_is_none() -> None:
    headers = (("error_class", b"\xff"), ("time", b"9" * 15), ("redriven", b"-1"))
    dead_letter = dead_letters.read(Message("dlq", 0, 0, None, b"", headers))
    assert (dead_letter.reason, dead_letter.redriven) == (dead_letters.OTHER, 0)
    assert dead_letters.read(Message("dlq", 0, 0, None, b"", (("time", b"soon"),))).time_ms is None


@pytest.mark.parametrize(
    "text", ["", "1", "1/", "a/b", "-1/2", "1/2/3", "1/2\n", "١/٢", "0/" + "9" * 19], ids=ascii
)
def test_a_malformed_position_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="PARTITION/OFFSET"):
        dead_letters.parse_position(text)


def test_positions_and_reasons_are_parsed() -> None:
    assert dead_letters.parse_position("3/17") == (3, 17)
    assert dead_letters.select_reasons("empty") == ("empty",)
    assert set(REASONS) < set(dead_letters.select_reasons(None))
    with pytest.raises(ConfigurationError, match="not_json"):
        dead_letters.select_reasons("bad")


def test_the_help_names_every_reason() -> None:
    words = re.findall(r"\w+", str(cli.REASON.help).partition(":")[2])
    assert [word for word in words if word != "or"] == list(dead_letters.ALL_REASONS)


@pytest.mark.parametrize(
    ("key", "value", "users"),
    [
        (b"u", b'{"user_id": "v"}', {"u", "v"}),
        (None, b'{"user_id": 7}', {"7"}),
        (None, b'\0\0\0\0\1{"user_id": "framed"}', {"framed"}),
        (b"u", b"no JSON", {"u"}),
        (b"", b'{"user_id": true}', set()),
        (None, b'["user_id"]', set()),
        (None, None, set()),
    ],
)
def test_whose_a_message_may_be(key: bytes | None, value: bytes | None, users: set[str]) -> None:
    assert dead_letters.user_ids(Message("t", 0, 0, key, value)) == users


@pytest.mark.parametrize(
    ("headers", "timestamp_ms", "skipped"),
    [
        ((("time", b"100"),), 200, True),
        ((("time", b"200"),), 100, True),
        ((("time", b"101"),), 101, False),
        ((), None, True),
    ],
)
def test_dead_letters_from_before_their_user_was_forgotten_are_skipped(
    headers: tuple[tuple[str, bytes], ...], timestamp_ms: int | None, skipped: bool
) -> None:
    letter = dead_letters.read(Message("t", 0, 0, b"u", b"x", headers, timestamp_ms))
    reason = dead_letters.skip_reason(letter, lambda user, at: user == "u" and at <= 100)
    assert (reason is not None and "forgotten" in reason) is skipped
    assert dead_letters.skip_reason(letter) is None
