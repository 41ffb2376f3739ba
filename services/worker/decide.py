"""Decoding, batching and encoding of messages for the worker. Pure: messages in, messages out."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeAlias

from nextclick.shared.click_rules import ClickRules
from nextclick.shared.errors import BadClick
from nextclick.shared.items import ItemStates
from nextclick.shared.messages import (
    REDRIVEN,
    EncodeRecommendation,
    Message,
    OutMessage,
    as_json,
    schema_headers,
    times_redriven,
    trace_context,
)
from nextclick.shared.model import Constraints, KeptOut, Ranking, Scorer, seed_of
from nextclick.shared.past import PastClick, kept_out
from nextclick.shared.profiles import Profile
from nextclick.shared.schemas import (
    MAX_CLICK_BYTES,
    Click,
    ExperimentArm,
    ExtendedRecommendation,
    Recommendation,
    event_id_of,
)

ClickId: TypeAlias = tuple[str, str]
"""User id and event id."""
MAX_DEAD_LETTER_BYTES = MAX_CLICK_BYTES
"""Longest value of a dead letter; a longer one can never become a valid click."""
MAX_DEAD_LETTER_KEY_BYTES = 10_000
_DEAD_LETTER_REST_BYTES = 16_384
"""Upper bound of everything beside the value: key, headers, and Kafka's overhead."""


@dataclass(frozen=True)
class AnswerTopic:
    """A topic of recommendations."""

    name: str
    encode: EncodeRecommendation = as_json
    profile: Profile | None = None
    """The constraints on its lists."""
    profile_id: str | None = None
    """How its messages name the profile."""
    encode_in_experiment: EncodeRecommendation = as_json

    def encoded(self, answer: Recommendation) -> bytes:
        """The value of a message."""
        in_experiment = isinstance(answer, ExtendedRecommendation) and answer.experiment
        return self.encode_in_experiment(answer) if in_experiment else self.encode(answer)


@dataclass(frozen=True, slots=True)
class DecodedMessage:
    """A message, and its click or the reason why there is none."""

    message: Message
    outcome: Click | BadClick | None
    """None: an event that is no click, such as an impression."""


def decode(messages: Sequence[Message], rules: ClickRules) -> list[DecodedMessage]:
    """Decode every message."""
    return [DecodedMessage(message, _decode(message, rules)) for message in messages]


def _decode(message: Message, rules: ClickRules) -> Click | BadClick | None:
    try:
        return rules.read(message)
    except BadClick as error:
        return error


def clicks(batch: Sequence[DecodedMessage]) -> tuple[list[Click], list[Message]]:
    """The clicks of a batch, and the message of each."""
    found, messages = [], []
    for message, outcome in ((read.message, read.outcome) for read in batch):
        if isinstance(outcome, Click):
            found.append(outcome)
            messages.append(message)
    return found, messages


def bad_clicks(batch: Sequence[DecodedMessage]) -> list[tuple[Message, BadClick]]:
    """The messages of a batch that are not clicks, with the reasons."""
    return [(read.message, read.outcome) for read in batch if isinstance(read.outcome, BadClick)]


def clicks_per_user(batch: Sequence[DecodedMessage]) -> Counter[str]:
    """Clicks per user in a batch."""
    return Counter(r.outcome.user_id for r in batch if isinstance(r.outcome, Click))


def take_batch(
    waiting: deque[DecodedMessage], max_messages: int, uncommitted: Counter[str], max_per_user: int
) -> list[DecodedMessage]:
    """Take a batch from the front; stop before a user exceeds `max_per_user` uncommitted clicks.

    `uncommitted`: clicks per user that were taken and are not committed yet; updated here. The
    limit ensures that the session store still holds all clicks that a crash can replay
    (sessions.MAX_UNCOMMITTED_CLICKS_PER_USER).
    """
    batch: list[DecodedMessage] = []
    while waiting and len(batch) < max_messages:
        outcome = waiting[0].outcome
        if isinstance(outcome, Click):
            if uncommitted[outcome.user_id] >= max_per_user:
                break
            uncommitted[outcome.user_id] += 1
        batch.append(waiting.popleft())
    return batch


def recommendation(
    click: Click,
    history: list[str],
    ranking: Ranking,
    model_version: str,
    now_ms: int,
    items_offset: int = 0,
    profile_id: str | None = None,
    experiment: ExperimentArm | None = None,
) -> Recommendation:
    """Make the recommendation that answers a click.

    profile_id: how the message names the profile; None: its topic has none. experiment: None: no
    experiment runs. Without these two a message has no field for them.
    """
    fields: dict[str, Any] = {
        "event_id": click.event_id,
        "user_id": click.user_id,
        "items": ranking.items,
        "model_version": model_version,
        "history": history,
        "click_timestamp": click.timestamp,
        "scored_at": now_ms,
        "fallback": ranking.fallback,
        "items_offset": items_offset,
        "schema_version": 1,
    }
    more: dict[str, Any] = {}
    if profile_id is not None:
        more |= {"profile": profile_id, "shortened_by": ranking.shortened_by}
    if ranking.drawn is not None:
        more["exploration"] = ranking.drawn
    if ranking.kept_out is not None:
        more["kept_out"] = ranking.kept_out
    if experiment is not None:
        more["experiment"] = experiment
    return (ExtendedRecommendation if more else Recommendation).model_construct(**fields, **more)


def rankings(
    topics: Sequence[AnswerTopic],
    items: ItemStates,
    scorer: Scorer,
    requests: Sequence[tuple[Click, list[str]]],
    past: Mapping[ClickId, Sequence[PastClick]] = MappingProxyType({}),
) -> list[list[Ranking]]:
    """For each topic the rankings for clicks and their histories, all from one forward pass.

    past: what each user had clicked by each click, itself the last, if a profile asks for it.
    """
    histories = [history for _, history in requests]
    if all(topic.profile is None for topic in topics):
        return [scorer.recommend(histories, withheld=items.withheld)] * len(topics)
    befores = [past.get((click.user_id, click.event_id), ()) for click, _ in requests]
    kinds = [
        None if topic.profile is None else _constraints(topic.profile, items, scorer, befores)
        for topic in topics
    ]
    explores = any(topic.profile and topic.profile.exploration for topic in topics)
    seeds = [seed_of(c.user_id, c.event_id) for c, _ in requests] if explores else None
    return scorer.recommend_each(histories, kinds, items.withheld, seeds)


def _constraints(
    profile: Profile, items: ItemStates, scorer: Scorer, befores: Sequence[Sequence[PastClick]]
) -> list[Constraints]:
    """The constraints on each list under a profile. befores: what each user had clicked by then."""
    same = scorer.prepare([profile], items.attributes)(scorer.top_k, False)
    if not profile.excludes_past:
        return [same] * len(befores)
    kept = (kept_out(past, past[-1].at if past else 0, [profile]) for past in befores)
    return [
        same if one is None else replace(same, kept_out=KeptOut.of(one, scorer.vocabulary))
        for one in kept
    ]


def log_fields(message: Message, error: BadClick) -> dict[str, object]:
    """Structured fields for the log record of a dead letter; event_id only if it is readable."""
    return {
        "event_id": event_id_of(message.value) if error.reason == "invalid" else None,
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "reason": error.reason,
    }


def dead_letter_bytes(max_message_bytes: int | None) -> int:
    """Longest value of a dead letter on a topic with this message limit (None: unknown)."""
    if max_message_bytes is None:
        return MAX_DEAD_LETTER_BYTES
    return min(MAX_DEAD_LETTER_BYTES, max(0, max_message_bytes - _DEAD_LETTER_REST_BYTES))


def dead_letter(
    topic: str,
    message: Message,
    error: BadClick,
    now_ms: int,
    max_bytes: int = MAX_DEAD_LETTER_BYTES,
) -> OutMessage:
    """Make the dead letter of a message: its key and value; reason and origin in the headers.

    A value of more than `max_bytes` and a key that is too long are cut, because a dead letter that
    Kafka refuses would stop the worker for good; the headers `original_bytes` and
    `original_key_bytes` then hold the full lengths. The header of a message that
    `nextclick dlq redrive` sent is kept, and that of a schema registry's serializer.
    """
    key, value = message.key, message.value
    headers = {
        "topic": message.topic,
        "partition": str(message.partition),
        "offset": str(message.offset),
        "error_class": error.reason,
        "error": str(error)[:1000],
        "time": str(now_ms),
    }
    if count := times_redriven(message):
        headers[REDRIVEN] = str(count)
    if key is not None and len(key) > MAX_DEAD_LETTER_KEY_BYTES:
        headers["original_key_bytes"] = str(len(key))
        key = key[:MAX_DEAD_LETTER_KEY_BYTES]
    if value is not None and len(value) > max_bytes:
        headers["original_bytes"] = str(len(value))
        value = value[:max_bytes]
    encoded = tuple((name, text.encode("utf-8", "replace")) for name, text in headers.items())
    context = schema_headers(message) + trace_context(message.headers)
    return OutMessage(topic, key, value, encoded + context)
