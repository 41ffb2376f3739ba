"""A live experiment in a worker: who gets which model, and what the messages say of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextclick.bench.agreement import lists_agree
from nextclick.services.worker.arms import ArmScorer
from nextclick.services.worker.decide import AnswerTopic
from nextclick.services.worker.guard import Guard
from nextclick.shared.experiments import Experiment
from nextclick.shared.items import ItemTable
from nextclick.shared.messages import OutMessage
from nextclick.shared.model import Ranking, Scorer
from nextclick.shared.model.delta import applied
from nextclick.shared.registry import Arms, ServedModel
from nextclick.shared.runtime import metrics
from nextclick.shared.schemas import (
    ExtendedRecommendation,
    Recommendation,
    decode_extended,
    decode_recommendation,
)
from tests.unit.builders import CPU, checkpoint
from tests.unit.services.worker.test_profile_topics import (
    BASE,
    ITEMS,
    KEPT,
    TOPICS,
    assert_drawn_alike,
    item_ids,
    messages,
    said,
)
from tests.unit.shared.model.test_delta import a_delta
from tests.unit.worker_stage import Stage, click, garbage, worker

EXPERIMENT = Experiment("try", "5a17", "va", "vb", 0.5, datetime(2026, 1, 31, tzinfo=UTC))
SEEDS = {"va": 0, "vb": 1}
"""Version → its weights."""
A, B = (ServedModel(v, Scorer(checkpoint(ITEMS, seed), CPU, 5)) for v, seed in SEEDS.items())
ARMS = Arms(EXPERIMENT, B)
DELTA = a_delta(base="va")


def with_delta() -> ServedModel:
    base = checkpoint(ITEMS, SEEDS["va"])
    return ServedModel("va", Scorer(applied(DELTA, base), CPU, 5), delta=DELTA.number)


CHANGED = with_delta()
ANEW = {v: Scorer(checkpoint(ITEMS, seed), CPU, 5) for v, seed in SEEDS.items()}
ANEW[CHANGED.name] = with_delta().scorer
PLAIN = AnswerTopic("recommendations")
USERS = [f"user-{i}" for i in range(12)]
IN_B = [user for user in USERS if EXPERIMENT.arm_of(user) == "b"]

clicked = st.lists(st.tuples(st.sampled_from(USERS), item_ids), min_size=1, max_size=8)


def test_both_arms_have_users() -> None:
    assert 3 < len(IN_B) < 9


def set_up(
    number: int, topics: tuple[AnswerTopic, ...] = (PLAIN,), arms: Arms | None = ARMS
) -> tuple[Stage, Any]:
    """A worker before which lie so many clicks, of all users in turn."""
    stage = Stage([click(i, USERS[i % len(USERS)], str(1 + i % 5)) for i in range(number)])
    stage.model, stage.arms = A, arms
    return stage, worker(stage, now=1.0, topics=topics)


def values(sent: list[OutMessage]) -> list[dict[str, Any]]:
    return [json.loads(message.value or b"") for message in sent]


@settings(max_examples=15)
@given(st.lists(st.tuples(said, clicked), min_size=1, max_size=3), st.integers(0, 3), st.booleans())
def test_every_list_is_recomputable_from_its_message(
    steps: list[tuple[list[tuple[str, Any]], list[tuple[str, str]]]], begins: int, learns: bool
) -> None:
    """Model, delta, items, profile, drawn places and arm at once.

    Items change between batches, an experiment begins before one of them, and until then the model
    may have a delta (while an experiment runs, the slot holds none).
    """
    on_items = messages([*BASE, *(pair for changes, _ in steps for pair in changes)])
    table = ItemTable(keep_attributes=True)
    table.apply(on_items[: len(BASE)])
    stage = Stage([])
    stage.model = A
    ours = worker(stage, now=1.0, topics=(PLAIN, *TOPICS))
    ours.items = lambda: table.states
    at, number = len(BASE), 0
    for step, (changes, batch) in enumerate(steps):
        table.apply(on_items[at : at + len(changes)])
        at += len(changes)
        stage.arms = ARMS if step >= begins else None
        stage.model = CHANGED if learns and stage.arms is None else A
        stage._messages = [click(number + i, *pair) for i, pair in enumerate(batch)]
        number += len(batch)
        ours.step()
    ours.finish()
    assert len(stage.sent) == number * (1 + len(TOPICS))
    for message in stage.sent:
        answer = decode_extended(message.value)
        fields = json.loads(message.value or b"")
        if answer.experiment is None:
            assert "experiment" not in fields
            assert answer.model_version == (CHANGED.name if learns else "va")
        else:
            arm = EXPERIMENT.arm_of(answer.user_id)
            assert (answer.experiment.name, answer.experiment.arm) == ("try", arm)
            assert answer.model_version == {"a": "va", "b": "vb"}[arm]
        then = ItemTable(keep_attributes=True)
        then.apply(m for m in on_items if m.offset < answer.items_offset)
        scorer, constraints, seeds = ANEW[answer.model_version], None, None
        if "profile" in fields:
            profiles = [KEPT[fields["profile"]]]
            constraints = [scorer.prepare(profiles, then.states.attributes)(5, False)]
            assert ("exploration" in fields) == (profiles[0].exploration is not None)
        if answer.exploration is not None:
            seeds = [int(answer.exploration.seed, 16)]
        (again,) = scorer.recommend([answer.history], constraints, then.states.withheld, seeds)
        assert lists_agree(answer.items, again.items)
        assert_drawn_alike(answer, again)
        assert answer.fallback == again.fallback
        assert fields.get("shortened_by") == (again.shortened_by if "profile" in fields else None)


def test_all_users_are_answered_in_order_by_their_arm() -> None:
    before = metrics.EXPERIMENT_LISTS.labels("b")._value.get()
    stage, ours = set_up(40)
    ours.step()
    answers = values(stage.sent)
    assert [answer["event_id"] for answer in answers] == [f"e{i}" for i in range(40)]
    of = {answer["user_id"]: answer["experiment"] for answer in answers}
    assert of == {u: {"name": "try", "arm": "b" if u in IN_B else "a"} for u in USERS}
    in_b = sum(answer["user_id"] in IN_B for answer in answers)
    assert metrics.EXPERIMENT_LISTS.labels("b")._value.get() == before + in_b


def test_without_an_experiment_every_byte_is_as_before() -> None:
    stage, ours = set_up(20, arms=None)
    ours.step()
    with_experiment, other = set_up(20)
    other.step()
    for plain, marked in zip(stage.sent, with_experiment.sent, strict=True):
        assert plain.value == decode_recommendation(plain.value).model_dump_json().encode()
        assert b"experiment" not in (plain.value or b"")
        answer = json.loads(marked.value or b"")
        if answer["experiment"]["arm"] == "a":  # the field comes last
            of_a = Recommendation.model_validate(answer).model_dump_json().encode()
            assert of_a == plain.value


def test_a_message_under_a_profile_has_both() -> None:
    stage, ours = set_up(12, topics=(PLAIN, TOPICS[1]))
    ours.step()
    for message in stage.sent:
        if message.topic == TOPICS[1].name:
            answer = ExtendedRecommendation.model_validate_json(message.value or b"")
            assert answer.profile == TOPICS[1].profile_id
            assert answer.experiment.name == "try"


def test_a_batch_without_a_click_is_no_trouble() -> None:
    stage, ours = set_up(0)
    stage._messages = [garbage(0)]
    ours.step()
    assert [message.topic for message in stage.sent] == ["dlq"]


class Broken(Scorer):
    """Raises, or gives a score that is no number."""

    how: Callable[[list[Ranking]], list[Ranking]]

    def recommend(self, *arguments: Any, **named: Any) -> list[Ranking]:
        return self.how(super().recommend(*arguments, **named))


def raises(rankings: list[Ranking]) -> list[Ranking]:
    raise RuntimeError("CUDA error")


def gives_nan(rankings: list[Ranking]) -> list[Ranking]:
    rankings[0].items[0].score = float("nan")
    return rankings


@pytest.mark.parametrize("how", [raises, gives_nan])
def test_a_broken_arm_b_ends_the_part_of_this_worker(how: Any) -> None:
    broken = Broken(checkpoint(ITEMS, 1), CPU, 5)
    broken.how = how
    stage, ours = set_up(40, arms=Arms(EXPERIMENT, ServedModel("vb", broken)))
    refused: list[str] = []
    ours.arms = ArmScorer(Guard(), lambda experiment, why: refused.append(why))
    ours.max_batch = 20
    ours.step()
    stage.arms = Arms(EXPERIMENT, ServedModel("vb", broken))  # the slot has not heard of it yet
    ours.step()
    answers = values(stage.sent)
    assert len(answers) == 40
    assert all("experiment" not in answer for answer in answers), "they count for no arm"
    assert {answer["model_version"] for answer in answers} == {"va"}
    (why,) = refused
    assert why.startswith("model vb gives ")


def test_what_is_not_by_arm_a_is_not_marked() -> None:
    """The slot serves another model: the guard has taken arm a back."""
    stage, ours = set_up(12)
    stage.model = ServedModel("good", A.scorer)
    ours.step()
    answers = values(stage.sent)
    assert all("experiment" not in answer for answer in answers)
    assert {answer["model_version"] for answer in answers} == {"good"}


def test_hits_are_counted_by_arm_and_no_list_is_judged_by_another_arms_click() -> None:
    def counted() -> dict[str, tuple[float, float]]:
        both = (metrics.EXPERIMENT_JUDGED, metrics.EXPERIMENT_HITS)
        return {arm: tuple(m.labels(arm)._value.get() for m in both) for arm in "ab"}  # type: ignore[misc]

    before = counted()
    stage, ours = set_up(0)
    in_a = [user for user in USERS if user not in IN_B]
    for number, user in enumerate([in_a[0], IN_B[0]]):
        item = (A if number == 0 else B).scorer.recommend([["1"]])[0].items[0].item_id
        stage._messages = [click(10 * number, user, "1"), click(10 * number + 1, user, item)]
        ours.step()
    after = counted()
    assert {a: (after[a][0] - before[a][0], after[a][1] - before[a][1]) for a in "ab"} == {
        "a": (1, 1),
        "b": (1, 1),
    }
    assert len(ours.arms.guard._lists) == 1, "the guard judges nothing by users of arm b"
