"""Dead letters on a real topic: listed, shown, redriven, and answered by a real worker."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from nextclick.services.worker import decide
from nextclick.shared.errors import BadClick
from nextclick.shared.kafka import Publisher, ensure_topics, read_offsets, retained_offsets
from nextclick.shared.messages import Message, OutMessage
from nextclick.shared.runtime.settings import KafkaSettings
from tests.conftest import Launch
from tests.integration.terminal import nextclick, refused
from tests.integration.traffic import Answers, Shop, check, make_clicks, publish_model
from tests.waiting import until

Environ = dict[str, str]

SPOOF = b"\x1b[2J\x1b]0;owned\x07\xc2\x9b31m\r"


@pytest.fixture(autouse=True)
def topics(kafka: KafkaSettings) -> None:
    ensure_topics(kafka, kafka.topics)


def put(kafka: KafkaSettings, messages: Sequence[tuple[Message, str]]) -> None:
    """Make dead letters of messages as a worker does, all on partition 1."""
    publisher = Publisher(kafka)
    for message, reason in messages:
        dead_letter = decide.dead_letter(kafka.dlq_topic, message, BadClick(reason, "why"), 42)
        publisher.send(
            [
                OutMessage(
                    dead_letter.topic, dead_letter.key, dead_letter.value, dead_letter.headers, 1
                )
            ]
        )
    publisher.wait_acknowledged()


def bad(kafka: KafkaSettings, value: bytes | None, number: int, key: bytes = b"k") -> Message:
    """A message that is no click, found at partition 2, offset `number`."""
    return Message(kafka.clicks_topic, 2, number, key, value)


def content(kafka: KafkaSettings, topic: str) -> list[Message]:
    """Everything on a topic now."""
    return list(read_offsets(kafka, topic, retained_offsets(kafka, topic)))


def said(environ: Environ, *arguments: str) -> str:
    """What a command prints that does what it is told, and nothing to complain about."""
    result = nextclick(environ, "dlq", *arguments)
    assert (result.returncode, result.stderr) == (0, ""), result
    return result.stdout


def test_letters_are_listed_counted_and_shown(
    environ: Environ, kafka: KafkaSettings, tmp_path: Path
) -> None:
    assert "no dead letters" in said(environ, "list")
    binary = bytes(range(250, 256)) + SPOOF
    put(
        kafka,
        [
            (bad(kafka, b"[red]fine[/]", 0), "invalid"),
            (bad(kafka, binary, 1, SPOOF), "not_json"),
            (bad(kafka, b'{"event_id": 1}', 2), "invalid"),
            (bad(kafka, b"x" * 950_000, 3), "oversized"),
        ],
    )
    publisher = Publisher(kafka)
    publisher.send([OutMessage(kafka.dlq_topic, None, None, (("error", SPOOF),), 3)])
    publisher.wait_acknowledged()
    counts = f"{kafka.dlq_topic}: oversized 1, not_json 1, invalid 2, other 1"

    listed = said(environ, "list")
    assert counts in listed
    assert all(place in listed for place in ("1/0", "1/1", "1/2", "1/3", "3/0"))
    assert listed.replace("\n", "").isprintable()
    assert r"\x1b[2J" in listed
    assert "[red]fine[/]" in listed

    path = tmp_path / "dead_letters.json"
    filtered = said(environ, "list", "--reason", "invalid", "--limit", "1", "--json", str(path))
    assert counts in filtered
    assert "1/2" in filtered
    assert "1/0" not in filtered
    written = json.loads(path.read_text())
    assert written["counts"] == {"invalid": 2, "not_json": 1, "oversized": 1, "other": 1}
    assert [dead_letter["position"] for dead_letter in written["dead_letters"]] == ["1/2"]

    page = said(environ, "show", "1/1")
    assert page.replace("\n", "").isprintable()
    assert f"from      {kafka.clicks_topic}/2/1" in page
    assert f"000000  {binary[:16].hex(' ')}" in page
    assert "65,536 (cut)" in said(environ, "show", "1/3")
    assert "(none)" in said(environ, "show", "3/0")


def test_each_letter_goes_once_as_it_was(environ: Environ, kafka: KafkaSettings) -> None:
    sent = [(f"k{i}".encode(), b'{"event_id": %d}' % i) for i in range(3)]
    put(kafka, [(bad(kafka, value, i, key), "invalid") for i, (key, value) in enumerate(sent)])
    put(kafka, [(bad(kafka, b"{", 9), "not_json")])

    def redriven() -> list[tuple[bytes | None, bytes | None]]:
        arrived = content(kafka, kafka.clicks_topic)
        assert {m.partition for m in arrived} <= {2}  # where they came from, whatever the key
        assert {m.headers for m in arrived} <= {(("redriven", b"1"),)}
        return [(m.key, m.value) for m in arrived]

    only_invalid = ("redrive", "--reason", "invalid")
    assert f"3 would be redriven to {kafka.clicks_topic}" in said(
        environ, *only_invalid, "--dry-run"
    )
    assert redriven() == []
    assert f"2 redriven to {kafka.clicks_topic}" in said(environ, *only_invalid, "--limit", "2")
    assert redriven() == sent[:2]
    assert "1 redriven" in said(environ, *only_invalid)
    assert redriven() == sent
    again = said(environ, *only_invalid)
    assert "0 redriven" in again
    assert "--all" in again
    assert redriven() == sent
    assert "1 redriven" in said(environ, "redrive")  # those of the other reasons wait
    assert redriven() == [*sent, (b"k", b"{")]
    assert "3 redriven" in said(environ, *only_invalid, "--all")
    assert redriven() == [*sent, (b"k", b"{"), *sent]
    assert "0 redriven" in said(environ, "redrive")


def test_what_no_worker_could_accept_is_skipped_and_said(
    environ: Environ, kafka: KafkaSettings
) -> None:
    put(
        kafka,
        [
            (bad(kafka, None, 0), "empty"),
            (bad(kafka, b"", 1), "empty"),
            (bad(kafka, b"x" * 70_000, 2), "oversized"),
            (bad(kafka, b"x" * 950_000, 3), "oversized"),
            (Message(kafka.clicks_topic, 0, 4, b"k" * 20_000, b"{"), "not_json"),
        ],
    )
    for would in ("would be ", ""):
        result = said(environ, "redrive", *(["--dry-run"] if would else []))
        assert f"0 {would}redriven" in result
        assert f"2 {would}skipped: empty" in result
        assert f"2 {would}skipped: oversized" in result
        assert f"1 {would}skipped: cut" in result
    assert "skipped" not in said(environ, "redrive")
    assert content(kafka, kafka.clicks_topic) == []


def test_a_mistake_is_one_clear_line(environ: Environ, kafka: KafkaSettings) -> None:
    put(kafka, [(bad(kafka, b"{}", 0), "invalid")])
    missing = {"NEXTCLICK_KAFKA__DLQ_TOPIC": f"nowhere-{kafka.dlq_topic}"}
    no_clicks = {"NEXTCLICK_KAFKA__CLICKS_TOPIC": f"nowhere-{kafka.clicks_topic}"}
    unwritable = ("list", "--json", "/dev/null/dead_letters.json")
    for arguments, overrides, hint in [
        (("list", "--reason", "bad"), {}, "not_json"),
        (("redrive", "--reason", "bad"), {}, "not_json"),
        (("show", "1"), {}, "PARTITION/OFFSET"),
        (("show", "1/1"), {}, "holds 1/0 to 1/0"),
        (("show", "9/0"), {}, "holds 1/0 to 1/0"),
        (unwritable, {}, "--json"),
        (("list",), missing, "nextclick topics create"),
        (("redrive",), missing, "nextclick topics create"),
        (("redrive",), no_clicks, "topic nowhere"),
    ]:
        result = nextclick(environ, "dlq", *arguments, **overrides)
        assert hint in refused(result)
        assert len(result.stderr.splitlines()) == 1
    assert content(kafka, kafka.clicks_topic) == []


def test_a_worker_decides_anew(
    environ: Environ, kafka: KafkaSettings, launch: Launch, tmp_path: Path
) -> None:
    """Bad again: back it comes, marked. A click: answered, and alike if it was answered before."""
    clicks = make_clicks(41, users=3)
    *early, late = clicks
    shop, answers = Shop(kafka), Answers(kafka)
    publish_model(tmp_path / "registry", seed=1)
    launch("worker")
    shop.send(early)
    answers.wait_for({c.event_id for c in early})
    # Letters from a worker that knew less: one of its clicks has been answered since, one not.
    (answered,) = (
        m for m in content(kafka, kafka.clicks_topic) if b'"event-0-30"' in (m.value or b"")
    )
    unanswered = Message(
        kafka.clicks_topic, 0, 99, late.user_id.encode(), late.model_dump_json().encode()
    )
    put(kafka, [(answered, "invalid"), (unanswered, "invalid"), (bad(kafka, b"{}", 0), "invalid")])

    said(environ, "redrive")
    until(lambda: len(content(kafka, kafka.dlq_topic)) == 3 + 1, "the bad one, back again")
    until(lambda: len(answers.read()) == len(early) + 2, "two answers more")
    said(environ, "redrive", "--all")
    until(lambda: len(content(kafka, kafka.dlq_topic)) == 4 + 2, "the two bad ones, back again")
    until(lambda: len(answers.read()) == len(early) + 4, "two more answers more")

    times = Counter(a.event_id for a in answers.seen)
    assert times == Counter([c.event_id for c in clicks] + 2 * ["event-0-30"] + [late.event_id])
    check(clicks, answers.seen, tmp_path / "registry")
    back = [m for m in content(kafka, kafka.dlq_topic) if "redriven" in dict(m.headers)]
    assert {(m.key, m.value) for m in back} == {(b"k", b"{}")}
    assert sorted(dict(m.headers)["redriven"] or b"" for m in back) == [b"1", b"1", b"2"]
    answers.close()
