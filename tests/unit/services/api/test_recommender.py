"""Lists by arm while a live experiment runs, and lists with drawn places."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from nextclick.bench.agreement import lists_agree
from nextclick.services.api.recommender import ListAnswer, ListRequest, Recommender
from nextclick.services.api.rules import Rules
from nextclick.services.worker.decide import AnswerTopic, rankings
from nextclick.shared.experiments import Experiment
from nextclick.shared.items import ItemStates
from nextclick.shared.model import Ranking, Scorer
from nextclick.shared.profiles import Profile
from nextclick.shared.redis import MemorySessions
from nextclick.shared.registry import Arms, ServedModel
from nextclick.shared.schemas import Click, ExperimentArm, KeptOutItems, ScoredItem
from tests.unit.builders import CPU, checkpoint

EXPERIMENT = Experiment("try", "5a17", "va", "vb", 0.5, datetime(2026, 1, 31, tzinfo=UTC))
A, B = (ServedModel(v, Scorer(checkpoint(30, seed), CPU, 5)) for v, seed in (("va", 0), ("vb", 1)))
USERS = [f"user-{i}" for i in range(12)]
STATES = ItemStates()


class Slot:
    """Holds both models."""

    def __init__(self, b: ServedModel = B) -> None:
        self.model = A
        self.arms: Arms | None = Arms(EXPERIMENT, b)
        self.refused: list[str] = []

    def refuse_arms(self, experiment: Experiment, why: str) -> None:
        self.arms = None
        self.refused.append(why)


def answers(slot: Slot, requests: list[ListRequest]) -> list[ListAnswer]:
    rules: Any = SimpleNamespace(rules=Rules())
    published: Any = None  # no request comes with a click
    sessions = MemorySessions(gap_ms=0, ttl_seconds=60)
    recommender = Recommender(slot, sessions, rules, published, lambda: STATES)  # type: ignore[arg-type]
    return recommender.answer(requests)


def of_user(user: str | None, k: int = 5) -> ListRequest:
    return ListRequest(user, ["1", "2"], k, False)


def test_a_user_gets_the_list_of_the_users_arm() -> None:
    requests = [of_user(user, k) for user in [*USERS, None] for k in (5, 3)]
    found = answers(Slot(), requests)
    for request, answer in zip(requests, found, strict=True):
        arm = EXPERIMENT.arm_of(request.user_id) if request.user_id else None
        assert answer.experiment == (ExperimentArm(name="try", arm=arm) if arm else None)
        model = B if arm == "b" else A
        assert answer.model_version == model.name
        history: list[str] = [] if request.user_id else ["1", "2"]  # nobody has clicked
        (plain,) = model.scorer.recommend([history])
        assert lists_agree(answer.items, plain.items[: request.k])


@pytest.mark.parametrize(
    "user", [next(u for u in USERS if EXPERIMENT.arm_of(u) == a) for a in "ab"]
)
def test_a_batch_may_be_of_one_arm(user: str) -> None:
    (answer,) = answers(Slot(), [of_user(user)])
    assert answer.experiment is not None
    assert answer.model_version == EXPERIMENT.version_of(EXPERIMENT.arm_of(user))


def test_without_both_arms_nothing_is_marked() -> None:
    slot = Slot()
    slot.model = replace(A, version="another")
    for answer in answers(slot, [of_user(user) for user in USERS]):
        assert (answer.experiment, answer.model_version) == (None, "another")


class Broken(Scorer):
    def recommend(self, *arguments: Any, **named: Any) -> list[Ranking]:
        raise RuntimeError("CUDA error")


def test_a_broken_arm_b_leaves_all_users_to_the_other() -> None:
    slot = Slot(ServedModel("vb", Broken(checkpoint(30, 1), CPU, 5)))
    for answer in answers(slot, [of_user(user) for user in USERS]):
        assert (answer.experiment, answer.model_version) == (None, "va")
    assert slot.refused == ["model vb gives RuntimeError('CUDA error')"]


EXPLORES = Profile.model_validate({"exploration": {"slots": 2, "candidates": 20}})


def explored(user: str | None, history: list[str] | None = None, **more: Any) -> ListRequest:
    return ListRequest(user, history or [], 5, False, (EXPLORES,), "news", **more)


def test_a_list_of_a_user_is_drawn_once_for_each_history_and_others_each_time() -> None:
    slot = Slot()
    slot.arms = None
    first, again, other = answers(slot, [explored("ann"), explored("ann"), explored("bob")])
    assert first == again
    assert first.exploration is not None
    assert other.exploration is not None
    assert first.exploration.seed != other.exploration.seed
    assert first.exploration.propensities[:3] == [1, 1, 1]
    visitors = answers(slot, [explored(None, ["1"]) for _ in range(30)])
    assert len({v.exploration.seed for v in visitors if v.exploration}) == 30
    assert len({tuple(i.item_id for i in v.items) for v in visitors}) > 5


def test_a_list_for_a_click_is_drawn_as_the_workers() -> None:
    slot = Slot()
    slot.arms = None
    click = Click(event_id="e1", user_id="ann", item_id="3", timestamp=1000)
    published: Any = SimpleNamespace(up_to=lambda click: [click])
    rules: Any = SimpleNamespace(rules=Rules())
    sessions = MemorySessions(gap_ms=0, ttl_seconds=60)
    recommender = Recommender(slot, sessions, rules, published, lambda: STATES)  # type: ignore[arg-type]
    (answer,) = recommender.answer([explored("ann", click=click)])
    topic = AnswerTopic("recommendations.news", profile=EXPLORES, profile_id="news@1")
    ((ranking,),) = rankings([topic], STATES, A.scorer, [(click, ["3"])])
    assert answer.history == ["3"]
    assert lists_agree(answer.items, ranking.items)
    assert answer.exploration == ranking.drawn


FRESH = Profile(exclude_seen_days=1, exclude_bought_days=7)
DAY_MS = 86_400_000


def test_lists_leave_out_what_the_user_clicked_of_late() -> None:
    """As of now; for a click as the worker's; of a visitor without an id by the history given."""
    slot, now_ms = Slot(), int(time.time() * 1000)
    slot.arms = None
    sessions = MemorySessions(gap_ms=0, ttl_seconds=60, past_days=7)
    before = [
        Click(event_id="e1", user_id="ann", item_id="1", timestamp=now_ms - 5 * DAY_MS),
        Click(
            event_id="e2",
            user_id="ann",
            item_id="2",
            timestamp=now_ms - 4 * DAY_MS,
            event_type="order",
        ),
        Click(event_id="e3", user_id="ann", item_id="3", timestamp=now_ms - 1000),
    ]
    sessions.append(before)
    click = Click(event_id="e4", user_id="ann", item_id="4", timestamp=now_ms - 4 * DAY_MS)
    published: Any = SimpleNamespace(up_to=lambda click: [click])
    rules: Any = SimpleNamespace(rules=Rules())
    recommender = Recommender(slot, sessions, rules, published, lambda: STATES)  # type: ignore[arg-type]
    asked = ListRequest("ann", [], 30, False, (FRESH,), "fresh")
    of_now, of_click, of_nobody, of_history, plain = recommender.answer(
        [
            asked,
            replace(asked, click=click),
            replace(asked, user_id="bob"),
            replace(asked, user_id=None, history=["7", "8"]),
            replace(asked, profiles=(), profile=None),
        ]
    )
    for answer, seen, bought in (
        (of_now, ["3"], ["2"]),
        (of_click, ["3", "4"], ["2"]),
        (of_nobody, [], []),
        (of_history, ["7", "8"], []),
    ):
        assert answer.kept_out == KeptOutItems(seen=seen, bought=bought)
        listed = {item.item_id for item in answer.items}
        assert listed == {str(i) for i in range(1, 31)} - {*seen, *bought}
    assert plain.kept_out is None
    assert len(plain.items) == 30
    topic = AnswerTopic("recommendations.fresh", profile=FRESH, profile_id="fresh@1")
    (session,) = sessions.append_with_past([click])
    past = {("ann", "e4"): session.past}
    ((ranking,),) = rankings([topic], STATES, A.scorer, [(click, session.history)], past)
    assert ranking.kept_out == of_click.kept_out
    assert ids(of_click.items)[:5] == ids(ranking.items)


def ids(items: list[ScoredItem]) -> list[str]:
    return [item.item_id for item in items]


def test_a_request_without_such_a_profile_draws_nothing() -> None:
    slot = Slot()
    slot.arms = None
    drawn, plain = answers(slot, [explored("ann"), of_user("ann")])
    assert drawn.exploration is not None
    assert plain.exploration is None
    (short,) = answers(slot, [replace(explored("ann"), k=1)])
    assert short.exploration is None, "the first place is never drawn"
