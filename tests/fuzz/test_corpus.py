"""What `make fuzz` looks for, on its kept corpus and on what hypothesis makes; needs no atheris."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from nextclick.services.worker import decide
from nextclick.shared.errors import BadClick
from nextclick.shared.messages import Message
from nextclick.shared.runtime import metrics
from nextclick.shared.schemas import REASONS, Click, decode_click
from tests.fuzz.properties import RULES, check, check_input

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_the_corpus_is_handled(path: Path) -> None:
    data = path.read_bytes()
    check_input(data)
    if path.name.startswith("good"):
        assert isinstance(decode_click(data), Click)


@pytest.mark.parametrize("size", [65_536, 65_537, 899_999, 900_001, 1_000_000, 5_000_000])
def test_large_garbage_is_handled(size: int) -> None:
    noise = random.Random(size).randbytes(size)
    for value in (noise, b"[" * size, b'{"user_id":"' + b"u" * size + b'"}'):
        check(value, key=noise, header=noise[:1000])


ANY = st.characters(codec=None, exclude_categories=[])
"""Every code point, lone surrogates and all."""
texts = st.text(ANY, min_size=1, max_size=140)


@given(user=texts, item=texts, event=texts, ascii_only=st.booleans(), key=st.binary())
def test_any_ids_are_handled(
    user: str, item: str, event: str, ascii_only: bool, key: bytes
) -> None:
    click = {"event_id": event, "user_id": user, "item_id": item, "timestamp": 1}
    value = json.dumps(click, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    check(value, key)
    if any("\ud800" <= c <= "\udfff" for c in user + item + event) and not ascii_only:
        with pytest.raises(BadClick):
            decode_click(value)


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=30))
def test_any_bytes_are_handled(value: bytes, key: bytes, header: bytes) -> None:
    check(value, key, header)


@given(st.lists(st.binary(max_size=100) | texts.map(lambda t: json.dumps(t).encode()), max_size=5))
def test_no_metric_label_comes_from_a_message(values: list[bytes]) -> None:
    messages = [Message("clicks", 0, i, v, v) for i, v in enumerate(values)]
    batch = decide.decode(messages, RULES)
    for _, error in decide.bad_clicks(batch):
        metrics.DEAD_LETTERS.labels(error.reason)  # as the loop does
    labels = {
        sample.labels.get("reason")
        for metric in REGISTRY.collect()
        if metric.name == "nextclick_dead_letters"
        for sample in metric.samples
    }
    assert labels <= {*REASONS}
