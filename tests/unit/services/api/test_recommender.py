"""Lists by arm while a live experiment runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from nextclick.bench.agreement import lists_agree
from nextclick.services.api.recommender import ListAnswer, ListRequest, Recommender
from nextclick.services.api.rules import Rules
from nextclick.shared.experiments import Experiment
from nextclick.shared.items import ItemStates
from nextclick.shared.model import Ranking, Scorer
from nextclick.shared.redis import MemorySessions
from nextclick.shared.registry import Arms, ServedModel
from nextclick.shared.schemas import ExperimentArm
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
