"""Lets a contestant answer the clicks topic once, and compares the answers of two contestants."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from nextclick.bench.agreement import answers_agree
from nextclick.bench.contestants import Contestant, own_names
from nextclick.services.demo.local_servers import Processes
from nextclick.shared.errors import NextclickError
from nextclick.shared.kafka import TopicReader, ensure_topics
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from nextclick.shared.schemas import Recommendation

SILENCE_SECONDS = 60.0
"""A contestant fails after this long without an answer."""


@dataclass(frozen=True)
class Pass:
    """The outcome of answering the topic once."""

    clicks_per_second: float
    answers: list[Recommendation]


def answer_all(
    name: str,
    contestant: Contestant,
    folder: Path,
    environ: dict[str, str],
    kafka: KafkaSettings,
    clicks: int,
) -> Pass:
    """Let one contestant answer the clicks topic from its beginning.

    `name` must be unique: consumer group, state and recommendations topic are named after it.
    Raises NextclickError if the process dies, stops answering, or ends with an error.
    """
    answers_to = kafka.model_copy(
        update={"recommendations_topic": f"{name}-{kafka.recommendations_topic}"}
    )
    ensure_topics(answers_to, [answers_to.recommendations_topic])
    reader = TopicReader(answers_to, [answers_to.recommendations_topic])
    names = {
        **own_names(name),
        f"{PREFIX}KAFKA__CLICKS_TOPIC": kafka.clicks_topic,
        f"{PREFIX}KAFKA__RECOMMENDATIONS_TOPIC": answers_to.recommendations_topic,
        f"{PREFIX}REDIS__KEY_PREFIX": f"{environ.get(f'{PREFIX}REDIS__KEY_PREFIX', '')}{name}:",
    }
    processes = Processes(folder, {**environ, **names})
    contestant.start(name, processes)
    try:
        values, ended = _watch(reader, processes, name, clicks)
        processes.stop(name)
    finally:
        processes.kill_all()
        reader.close()
    answers = [Recommendation.model_validate_json(value) for value in values]
    return Pass(rate([answer.scored_at for answer in answers], 1000 * ended), answers)


def rate(scored_ms: list[int], ended_ms: float) -> float:
    """Answers per second, from the scoring of the first to the arrival of the last.

    Not from the first arrival: a producer that is still connecting delays it by half a second, and
    the answers scored in that time would seem to cost nothing. The answers that were scored
    together with the first one (a micro-batch) are not counted.
    """
    began_ms = min(scored_ms)
    return 1000 * sum(scored > began_ms for scored in scored_ms) / (ended_ms - began_ms)


def _watch(
    reader: TopicReader, processes: Processes, name: str, clicks: int
) -> tuple[list[bytes], float]:
    """Read one answer per click; returns them, and when the last arrived (epoch seconds)."""
    values: list[bytes] = []
    last_arrival = time.time()
    while len(values) < clicks:
        messages = reader.poll(timeout=0.5)
        if messages:
            last_arrival = time.time()
            values += [message.value or b"" for message in messages]
        elif time.time() - last_arrival > SILENCE_SECONDS:
            raise NextclickError(f"{name} answered {len(values)} of {clicks} clicks, then no more")
        else:
            processes.check()
    return values, last_arrival


def compare(answers: list[Recommendation], others: list[Recommendation]) -> None:
    """Raise NextclickError unless both lists hold the same answers to the same clicks."""
    answers = sorted(answers, key=lambda answer: answer.event_id)
    others = sorted(others, key=lambda answer: answer.event_id)
    if [a.event_id for a in answers] != [a.event_id for a in others]:
        raise NextclickError("the two workers did not answer the same clicks")
    for one, other in zip(answers, others, strict=True):
        if not answers_agree(one, other.model_copy(update={"scored_at": one.scored_at})):
            raise NextclickError(f"different answers to one click: {one!r} and {other!r}")
