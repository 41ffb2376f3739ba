"""What must hold for every value that anybody may send to the clicks topic."""

from __future__ import annotations

from nextclick.services.worker import decide
from nextclick.shared.click_rules import ClickRules
from nextclick.shared.errors import BadClick
from nextclick.shared.event_types import normalised
from nextclick.shared.messages import Message, of_user
from nextclick.shared.model import Ranking
from nextclick.shared.redis.sessions import event_digest
from nextclick.shared.schemas import MAX_CLICK_BYTES, REASONS, Click, decode_click

KAFKA_LIMIT = 1_000_000
"""Kafka's default for a message is 1,048,588 bytes, headers and all; some is for framing."""

RULES = ClickRules()
PREFIX = b"nextclick:session:"


def check(value: bytes | None, key: bytes | None = None, header: bytes = b"1") -> None:
    """Raise AssertionError if the value, or what is made of it, is not as it must be."""
    headers = (("redriven", header), ("x", header))
    message = Message("clicks", 3, 17, key, value, headers)
    (read,) = decide.decode([message], RULES)
    if isinstance(read.outcome, BadClick):
        _check_letter(message, read.outcome)
    elif read.outcome is None:
        assert RULES.weights[normalised(decode_click(value).event_type)] == 0
    else:
        assert value is not None
        assert decode_click(value) == read.outcome
        _check_click(read.outcome)


def check_input(data: bytes) -> None:
    """The same for one input of the fuzzer: a value, and perhaps a key and a header."""
    value, _, rest = data.partition(b"\0KEY\0")
    key, _, header = rest.partition(b"\0HEADER\0")
    check(value, key or None, header or b"1")


def _check_letter(message: Message, error: BadClick) -> None:
    assert error.reason in REASONS
    assert str(error).isprintable()  # the reason says what is wrong, not what was sent
    letter = decide.dead_letter("dlq", message, error, now_ms=2**40)
    assert letter.value is None or message.value is not None
    if message.value is not None and len(message.value) <= MAX_CLICK_BYTES:
        assert letter.value == message.value
    size = len(letter.value or b"") + len(letter.key or b"")
    for name, text in letter.headers:
        assert name.isidentifier()  # never a name that somebody sent
        assert text.decode().isprintable()
        size += len(name) + len(text)
    assert size < KAFKA_LIMIT


def _check_click(click: Click) -> None:
    assert decode_click(click.model_dump_json().encode()) == click
    key = PREFIX + click.user_id.encode()
    assert key.removeprefix(PREFIX).decode() == click.user_id
    assert len(event_digest(click.event_id)) == 8
    answer = decide.recommendation(click, [click.item_id], Ranking([], None), "v", 1)
    sent = of_user("recommendations", answer)
    assert sent.key == click.user_id.encode()
    assert type(answer).model_validate_json(sent.value or b"") == answer
