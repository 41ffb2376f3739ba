"""Lists without what a user clicked or bought in the last days."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from nextclick.bench.agreement import lists_agree
from nextclick.services.worker.decide import AnswerTopic
from nextclick.shared.messages import Message
from nextclick.shared.model import KeptOut, Scorer
from nextclick.shared.past import DAY_MS
from nextclick.shared.profiles import Profile, profile_id
from nextclick.shared.redis import MAX_UNCOMMITTED_CLICKS_PER_USER
from nextclick.shared.schemas import Click, ExtendedRecommendation
from tests.unit.builders import CPU, checkpoint
from tests.unit.services.worker.test_profile_topics import assert_drawn_alike
from tests.unit.worker_stage import Stage, worker

ITEMS, K = 30, 5
PROFILES = {
    "fresh": Profile(exclude_seen_days=1, exclude_bought_days=4),
    "again": Profile.model_validate(
        {"exclude_bought_days": 2, "exploration": {"slots": 1, "candidates": 9}}
    ),
    "plain": Profile(max_per_category=3),
}
TOPICS = tuple(
    AnswerTopic(f"recommendations.{name}", profile=profile, profile_id=profile_id(name, profile))
    for name, profile in PROFILES.items()
)
ANEW = Scorer(checkpoint(ITEMS), CPU, K)

events = st.lists(
    st.tuples(
        st.sampled_from("uv"),
        st.integers(1, ITEMS + 1).map(str),
        st.sampled_from(["click", "add to cart", "Purchase", "order"]),
        st.integers(0, 30).map(lambda hours: hours * DAY_MS // 24),  # since the one before
    ),
    min_size=1,
    max_size=40,
)


def messages_of(drawn: Sequence[tuple[str, str, str, int]]) -> list[Message]:
    at, found = 1000, []
    for i, (user, item, event_type, pause) in enumerate(drawn):
        at += pause
        click = Click(
            event_id=f"e{i}", user_id=user, item_id=item, timestamp=at, event_type=event_type
        )
        found.append(Message("clicks", 0, i, user.encode(), click.model_dump_json().encode()))
    return found


def answered(messages: list[Message], batch: int, stage: Stage | None = None) -> list[Message]:
    stage = stage or Stage([])
    stage.model = type(stage.model)("v1", Scorer(checkpoint(ITEMS), CPU, K))
    ours = worker(stage, batch, now=1.0, topics=(AnswerTopic("recommendations"), *TOPICS))
    sent = len(stage.sent)
    stage._messages = messages
    while stage._messages or ours._waiting:
        ours.step()
    ours.finish()
    return stage.sent[sent:]  # type: ignore[return-value]


@settings(max_examples=25, deadline=None)
@given(events, st.integers(1, 20))
def test_a_list_holds_nothing_of_the_last_days_and_is_recomputable(
    drawn: list[tuple[str, str, str, int]], batch: int
) -> None:
    messages = messages_of(drawn)
    clicks = [Click.model_validate_json(m.value or b"") for m in messages]
    number = {click.event_id: i for i, click in enumerate(clicks)}
    sent = answered(messages, batch)
    assert len(sent) == len(clicks) * (1 + len(TOPICS))
    for topic in TOPICS:
        assert topic.profile is not None
        for message in (m for m in sent if m.topic == topic.name):
            fields = json.loads(message.value or b"")
            answer = ExtendedRecommendation.model_validate(fields)
            constraints = ANEW.prepare([topic.profile], ANEW._index.attributes)(K, False)
            if topic.profile.excludes_past:
                assert answer.kept_out is not None
                before = clicks[: number[answer.event_id] + 1]
                theirs = [c for c in before if c.user_id == answer.user_id]
                seen, bought = expected(topic.profile, theirs)
                listed = {item.item_id for item in answer.items}
                assert not listed & (seen | bought)
                known = {*ANEW.vocabulary.item_ids}
                assert {*answer.kept_out.seen} == seen & known
                assert {*answer.kept_out.bought} == (bought - seen) & known
                kept_out = KeptOut.of(answer.kept_out, ANEW.vocabulary)
                constraints = type(constraints)(
                    K, False, constraints.profiles, constraints.index, kept_out
                )
                assert len(answer.items) == min(K, ITEMS - len((seen | bought) & known))
            else:
                assert "kept_out" not in fields
            seeds = [int(answer.exploration.seed, 16)] if answer.exploration else None
            (again,) = ANEW.recommend([answer.history], [constraints], seeds=seeds)
            assert lists_agree(answer.items, again.items)
            assert_drawn_alike(answer, again)
            assert (answer.fallback, answer.shortened_by) == (again.fallback, again.shortened_by)


def expected(profile: Profile, theirs: list[Click]) -> tuple[set[str], set[str]]:
    """Clicked and bought items of the last days, from the events themselves."""
    now = theirs[-1].timestamp

    def of(days: float | None, types: set[str] | None) -> set[str]:
        return {
            c.item_id
            for c in theirs
            if now - c.timestamp < (days or 0) * DAY_MS and (types is None or c.event_type in types)
        }

    return (
        of(profile.exclude_seen_days, None),
        of(profile.exclude_bought_days, {"Purchase", "order"}),
    )


def test_a_list_that_is_too_short_says_which_clicks_kept_items_out() -> None:
    everything = [("u", str(i), "click", 1) for i in range(1, ITEMS - 1)]
    bought = ("u", str(ITEMS), "order", 0)
    sent = answered(messages_of([bought, *everything]), 10)
    last = [m for m in sent if m.topic == "recommendations.fresh"][-1]
    answer = ExtendedRecommendation.model_validate_json(last.value or b"")
    assert [item.item_id for item in answer.items] == [str(ITEMS - 1)]
    assert answer.shortened_by == {"exclude_seen_days": ITEMS - 1}


def test_what_a_crash_repeats_has_the_same_lists() -> None:
    drawn = [
        ("u", str(1 + i * 7 % ITEMS), ("click", "order")[i % 2], 3_600_000) for i in range(600)
    ]
    messages, stage = messages_of(drawn), Stage([])
    stage._store._gap_ms = 1  # type: ignore[attr-defined]
    first = answered(messages, 22, stage)
    again = messages[-MAX_UNCOMMITTED_CLICKS_PER_USER:]
    repeated = answered(again, 22, stage)
    assert len(repeated) == len(again) * (1 + len(TOPICS))

    def values(sent: list[Message]) -> dict[tuple[str, str], bytes]:
        return {(m.topic, json.loads(m.value or b"")["event_id"]): m.value or b"" for m in sent}

    before = values(first)
    assert all(before[key] == value for key, value in values(repeated).items())
