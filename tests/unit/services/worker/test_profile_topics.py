"""Lists on several topics: recomputable from their messages, and none breaks a constraint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextclick.bench.agreement import lists_agree
from nextclick.services.worker.decide import AnswerTopic
from nextclick.shared.items import ItemTable
from nextclick.shared.messages import Message, OutMessage
from nextclick.shared.model import Ranking, Scorer, seed_of
from nextclick.shared.profiles import Profile, profile_id
from nextclick.shared.schemas import ExtendedRecommendation, Recommendation
from tests.unit.builders import CPU, checkpoint
from tests.unit.profile_oracle import Asked
from tests.unit.worker_stage import Stage, click, worker

ITEMS = 30
PROFILES = {
    "home": Profile.model_validate(
        {"max_per_category": 1, "boosts": {"tags": {"new": 3.0}, "items": {"4": 0.1}}}
    ),
    "cart": Profile.model_validate(
        {"max_price": 3.0, "excluded_tags": ["odd"], "pins": [{"position": 2, "item_id": "6"}]}
    ),
    "mail": Profile.model_validate({"categories": ["a", "b"], "tags": ["new"]}),
    "news": Profile.model_validate(
        {
            "max_per_category": 4,
            "exploration": {"slots": 1, "new_slots": 1, "new_below": 9, "candidates": 6},
        }
    ),
}
KEPT = {profile_id(name, profile): profile for name, profile in PROFILES.items()}
"""What a shop keeps of its profiles, by the name that is in messages."""
TOPICS = tuple(
    AnswerTopic(f"recommendations.{name}", profile=profile, profile_id=profile_id(name, profile))
    for name, profile in PROFILES.items()
)
SCORER = Scorer(checkpoint(ITEMS), CPU, 5)

item_ids = st.integers(1, ITEMS + 1).map(str)
values = st.one_of(
    st.none(),  # a tombstone
    st.fixed_dictionaries(
        {},
        optional={
            "categories": st.lists(st.sampled_from("abc"), max_size=2),
            "tags": st.lists(st.sampled_from(["new", "odd"]), max_size=2),
            "price": st.integers(0, 5),
            "available": st.booleans(),
        },
    ),
)
said = st.lists(st.tuples(item_ids, values), max_size=12)
clicked = st.lists(st.tuples(st.sampled_from("uvw"), item_ids), min_size=1, max_size=4)
BASE = [
    (str(i), {"categories": ["abc"[i % 3]], "tags": ["new", "odd"][: i % 3], "price": i % 6})
    for i in range(1, ITEMS + 1)
]


def messages(pairs: Sequence[tuple[str, Any]]) -> list[Message]:
    return [
        Message(
            "items",
            0,
            offset,
            item_id.encode(),
            None if value is None else json.dumps({"item_id": item_id, **value}).encode(),
        )
        for offset, (item_id, value) in enumerate(pairs)
    ]


def run(
    steps: Sequence[tuple[list[tuple[str, Any]], list[tuple[str, str]]]],
    topics: Sequence[AnswerTopic],
) -> tuple[list[OutMessage], list[Message]]:
    """A worker that hears of items between its batches; what it sends, and the items topic."""
    said = messages([*BASE, *(pair for changes, _ in steps for pair in changes)])
    table = ItemTable(keep_attributes=any(topic.profile for topic in topics))
    table.apply(said[: len(BASE)])
    pairs = [pair for _, batch in steps for pair in batch]
    clicks = iter([click(i, user, item) for i, (user, item) in enumerate(pairs)])
    stage = Stage([])
    stage.model = type(stage.model)("v1", SCORER)
    ours = worker(stage, now=1.0, topics=topics)
    ours.items = lambda: table.states
    at = len(BASE)
    for changes, batch in steps:
        table.apply(said[at : at + len(changes)])
        at += len(changes)
        stage._messages = [next(clicks) for _ in batch]
        ours.step()
    ours.finish()
    return stage.sent, said


@settings(max_examples=15)
@given(st.lists(st.tuples(said, clicked), min_size=1, max_size=3))
def test_every_list_is_recomputable_from_its_message_and_breaks_no_constraint(
    steps: list[tuple[list[tuple[str, Any]], list[tuple[str, str]]]],
) -> None:
    sent, items = run(steps, (AnswerTopic("recommendations"), *TOPICS))
    clicks = sum(len(batch) for _, batch in steps)
    anew = Scorer(checkpoint(ITEMS), CPU, 5)
    for topic in TOPICS:
        answers = [m for m in sent if m.topic == topic.name]
        assert len(answers) == clicks
        for message in answers:
            answer = ExtendedRecommendation.model_validate_json(message.value or b"")
            profile = KEPT[answer.profile]
            assert answer.model_version == "v1"
            then = ItemTable(keep_attributes=True)
            then.apply(m for m in items if m.offset < answer.items_offset)
            constraints = anew.prepare([profile], then.states.attributes)(anew.top_k, False)
            seeds = [int(answer.exploration.seed, 16)] if answer.exploration else None
            (again,) = anew.recommend([answer.history], [constraints], then.states.withheld, seeds)
            assert lists_agree(answer.items, again.items)
            assert_drawn_alike(answer, again)
            assert (answer.fallback, answer.shortened_by) == (again.fallback, again.shortened_by)
            keeps_to(profile, then, answer)
    alone, _ = run(steps, (AnswerTopic("recommendations"),))
    assert [m for m in sent if m.topic == "recommendations"] == alone


def assert_drawn_alike(answer: ExtendedRecommendation, again: Ranking) -> None:
    """Whether the places that were drawn are said to be so, as they can be computed again."""
    if (drawn := answer.exploration) is None:
        assert again.drawn is None
        return
    assert again.drawn is not None
    assert drawn.seed == again.drawn.seed == f"{seed_of(answer.user_id, answer.event_id):016x}"
    assert drawn.propensities == pytest.approx(again.drawn.propensities, rel=1e-3)
    assert len(drawn.propensities) == len(answer.items)


def keeps_to(profile: Profile, then: ItemTable, answer: ExtendedRecommendation) -> None:
    asked = Asked([profile], then.states.attributes, then.states.withheld, SCORER.top_k)
    listed = [item.item_id for item in answer.items]
    assert all(asked.allowed(item_id) for item_id in listed)
    assert len({*listed}) == len(listed)
    of = then.states.attributes
    if profile.max_per_category is not None:
        names = [name for item_id in listed for name in of.get(item_id).categories]
        assert all(names.count(name) <= profile.max_per_category for name in names)
    for pin in profile.pins:
        if asked.allowed(pin.item_id):
            assert listed.index(pin.item_id) == min(pin.position, len(listed)) - 1
    if len(listed) < SCORER.top_k:
        assert sum((answer.shortened_by or {}).values()) + len(listed) == ITEMS


def test_the_first_topic_may_have_a_profile_itself() -> None:
    cart = TOPICS[1]
    sent, _ = run([([], [("u", "1"), ("v", "2")])], (cart,))
    assert {m.topic for m in sent} == {"recommendations.cart"}
    for message in sent:
        answer = ExtendedRecommendation.model_validate_json(message.value or b"")
        assert answer.profile == cart.profile_id
        assert answer.items[1].item_id == "6"


def test_no_offset_is_committed_before_all_topics_are_acknowledged() -> None:
    stage = Stage([click(0)])
    stage.acknowledges = False
    ours = worker(stage, topics=(AnswerTopic("recommendations"), *TOPICS))
    for _ in range(3):
        ours.step()
    sends = [what for what in stage.names() if what.startswith("send")]
    assert sends == ["send recommendations", *(f"send {topic.name}" for topic in TOPICS)]
    assert "commit" not in stage.names()
    assert stage._receipts[0].outstanding == 1 + len(TOPICS), "one receipt for all of them"
    stage.acknowledge()
    ours.step()
    assert "commit" in stage.names()


@pytest.mark.parametrize("topic", [TOPICS[0], TOPICS[3]], ids=lambda topic: topic.name)
def test_a_model_that_is_broken_on_one_topic_only_is_seen(topic: AnswerTopic) -> None:
    """The guard looks at the scores of all lists; popular items stand in on each topic."""

    class Broken(Scorer):
        def recommend_each(self, *arguments: Any) -> list[list[Ranking]]:
            lists = super().recommend_each(*arguments)
            if any(arguments[0]):
                for item in lists[1][0].items:
                    item.score = float("nan")
            return lists

    stage = Stage([click(0)])
    stage.model = type(stage.model)("v1", Broken(checkpoint(ITEMS), CPU, 5))
    ours = worker(stage, topics=(AnswerTopic("recommendations"), topic))
    ours.step()
    plain, other = stage.sent
    assert Recommendation.model_validate_json(plain.value or b"").fallback is None
    answer = ExtendedRecommendation.model_validate_json(other.value or b"")
    assert answer.fallback == "not_finite"
    assert answer.profile == topic.profile_id
    assert (answer.exploration is not None) == (topic is TOPICS[3])
