from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextclick.shared.errors import BadClick
from nextclick.shared.schemas import (
    LATEST_TIMESTAMP,
    MAX_CLICK_BYTES,
    REASONS,
    Click,
    Recommendation,
    ScoredItem,
    decode_click,
)

GOOD = {"event_id": "e", "user_id": "u", "item_id": "i", "timestamp": 1}


def encode(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def test_a_click_gets_its_defaults() -> None:
    click = decode_click(encode())
    assert (click.event_type, click.schema_version) == ("click", 1)


def test_integer_ids_become_text_and_unknown_fields_are_ignored() -> None:
    click = decode_click(encode(user_id=7, item_id=10**30, colour="red", nested={"a": [1]}))
    assert (click.user_id, click.item_id) == ("7", str(10**30))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b" " * (MAX_CLICK_BYTES + 1), "oversized"),
        (b"{", "not_json"),
        (b"\x00\x00\x00\x00\x07{", "not_json"),
        (b"\x00\x00\x00\x00\x07{}", "invalid"),
        (b"\x00\x00\x00\x00\x07\x02e\x02u\x02i\x02", "framed"),
        (b"\x00\x00\x00\x00\x07", "not_json"),
        (b"\xff", "not_json"),
        (b'{"event_id": NaN}', "invalid"),
        (b"[" * 10_000, "not_json"),
        (b"[1]", "invalid"),
        (b'"text"', "invalid"),
        (b"null", "invalid"),
        (b'{"event_id":"\\ud800","user_id":"u","item_id":"i","timestamp":1}', "not_json"),
        (b'{"event_id":"e","user_id":' + b"9" * 5000 + b',"item_id":"i","timestamp":1}', None),
        (encode(event_id=""), "invalid"),
        (encode(event_id="e" * 65), "invalid"),
        (encode(event_id=5), "invalid"),
        (encode(user_id=True), "invalid"),
        (encode(user_id=1.5), "invalid"),
        (encode(user_id=None), "invalid"),
        (encode(item_id=""), "invalid"),
        (encode(item_id="i" * 129), "invalid"),
        (encode(item_id=["i"]), "invalid"),
        (encode(timestamp="1"), "invalid"),
        (encode(timestamp=1.0), "invalid"),
        (encode(timestamp=True), "invalid"),
        (encode(timestamp=2**63), "invalid"),
        (encode(timestamp=10**400), None),
        (encode(schema_version=2), "invalid"),
        (encode(schema_version=True), "invalid"),
    ],
    ids=[
        "no value",
        "empty",
        "oversized",
        "half an object",
        "half an object in a frame",
        "no click in a frame",
        "Avro",
        "a frame only",
        "one odd byte",
        "NaN",
        "deep",
        "a list",
        "a string",
        "null",
        "half a surrogate pair",
        "5000 digits",
        "event_id empty",
        "event_id too long",
        "event_id a number",
        "user_id true",
        "user_id a fraction",
        "user_id null",
        "item_id empty",
        "item_id too long",
        "item_id a list",
        "timestamp a string",
        "timestamp a fraction",
        "timestamp true",
        "timestamp of 65 bits",
        "timestamp of 400 digits",
        "schema_version 2",
        "schema_version true",
    ],
)
def test_what_is_no_click_says_why(value: bytes | None, reason: str | None) -> None:
    with pytest.raises(BadClick) as caught:
        decode_click(value)
    assert reason is None or caught.value.reason == reason
    assert str(caught.value)


@pytest.mark.parametrize("field", GOOD)
def test_a_missing_field_is_named(field: str) -> None:
    value = json.dumps({k: v for k, v in GOOD.items() if k != field}).encode()
    with pytest.raises(BadClick, match=field):
        decode_click(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(
    st.binary(max_size=200)
    | st.dictionaries(st.sampled_from([*GOOD, "x"]), json_values).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_any_bytes_are_a_click_or_a_bad_click(value: bytes) -> None:
    try:
        assert isinstance(decode_click(value), Click)
    except BadClick as error:
        reason = error.reason
    else:
        return
    assert reason in REASONS


ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64)


@given(event=ids, user=ids, item=ids, at=st.integers(0, 10**13))
def test_a_click_survives_the_wire(event: str, user: str, item: str, at: int) -> None:
    click = Click(event_id=event, user_id=user, item_id=item, timestamp=at)
    assert decode_click(click.model_dump_json().encode()) == click


def test_a_recommendation_survives_the_wire() -> None:
    answer = Recommendation(
        event_id="e",
        user_id="u",
        items=[ScoredItem(item_id="1", score=0.0567245), ScoredItem(item_id="2", score=1e-9)],
        model_version="v",
        history=["1"],
        click_timestamp=1,
        scored_at=2,
    )
    assert Recommendation.model_validate_json(answer.model_dump_json()) == answer


def test_limits_are_inclusive() -> None:
    longest = decode_click(encode(event_id="e" * 64, user_id="u" * 128, item_id="ü" * 128))
    assert len(longest.item_id) == 128
    for timestamp in (-(2**63), 2**63 - 1):  # nanoseconds fit, so that they can be named
        assert decode_click(encode(timestamp=timestamp)).timestamp == timestamp
        with pytest.raises(BadClick, match="timestamp"):
            decode_click(encode(timestamp=2 * timestamp))
    padded = encode().ljust(MAX_CLICK_BYTES)
    assert decode_click(padded).event_id == "e"
    with pytest.raises(BadClick) as caught:
        decode_click(padded + b" ")
    assert caught.value.reason == "oversized"


@pytest.mark.parametrize("event_type", ["", "t" * 65, 5, None])
def test_an_event_type_is_a_short_text(event_type: object) -> None:
    with pytest.raises(BadClick, match="event_type"):
        decode_click(encode(event_type=event_type))
    assert decode_click(encode(event_type="purchase")).event_type == "purchase"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (
            b'{"event_id":"e","user_id":' + b"9" * 5000 + b',"item_id":"i","timestamp":1}',
            "not_json",
        ),
        (b'{"event_id":"e","user_id":"u","item_id":"i","timestamp":1e3}', "invalid"),
        (b'{"event_id":"e","user_id":"u","item_id":"i","timestamp":Infinity}', "invalid"),
        (encode() + b"x", "not_json"),
        (b"\xef\xbb\xbf" + encode(), "not_json"),
        (encode().decode().encode("utf-16"), "not_json"),
        (b'{"event_id":"\xff","user_id":"u","item_id":"i","timestamp":1}', "not_json"),
        (encode()[:-1] + b',"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "not_json"),
    ],
    ids=[
        "5000 digits",
        "exponent",
        "infinity",
        "more behind it",
        "byte order mark",
        "utf-16",
        "latin-1",
        "deep",
    ],
)
def test_odd_bytes_have_their_reason(value: bytes, reason: str) -> None:
    with pytest.raises(BadClick) as caught:
        decode_click(value)
    assert caught.value.reason == reason


def test_the_reason_names_the_field_or_else_the_message() -> None:
    with pytest.raises(BadClick, match=r"^item_id: "):
        decode_click(encode(item_id=True))
    with pytest.raises(BadClick, match=r"^message: "):
        decode_click(b"[1]")


def test_the_reason_does_not_repeat_what_was_sent() -> None:
    with pytest.raises(BadClick) as caught:
        decode_click(encode(user_id=["very private"]))
    assert "very private" not in str(caught.value)


@given(
    texts=st.lists(ids, max_size=4),
    scores=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4),
    fallback=st.sampled_from(["cold_start", "unknown_items", None]),
    at=st.integers(0, LATEST_TIMESTAMP),
)
def test_any_recommendation_survives_the_wire(
    texts: list[str], scores: list[float], fallback: str | None, at: int
) -> None:
    answer = Recommendation(
        event_id="e",
        user_id="u",
        items=[ScoredItem(item_id="i", score=score) for score in scores],
        model_version="v",
        history=texts,
        click_timestamp=at,
        scored_at=at,
        fallback=fallback,  # type: ignore[arg-type]
    )
    assert Recommendation.model_validate_json(answer.model_dump_json()) == answer


def test_json_behind_the_frame_of_a_schema_registry_is_a_click() -> None:
    plain = b'{"event_id":"e","user_id":"u","item_id":"i","timestamp":1}'
    assert decode_click(b"\x00\x00\x00\x00\x07" + plain) == decode_click(plain)


def test_a_frame_without_json_names_its_schema() -> None:
    with pytest.raises(BadClick, match=r"schema 259\), and not JSON"):
        decode_click(b"\x00\x00\x00\x01\x03\x02e\x02u\x02i\x02")
