from __future__ import annotations

import gc
import json
import logging
import math
import random
import time
import tracemalloc
import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest

from nextclick.services.worker.guard import Guard
from nextclick.shared.model import Ranking
from nextclick.shared.model.scorer import Fallback
from nextclick.shared.registry import ServedModel
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.logs import JsonFormatter
from nextclick.shared.schemas import Click, ScoredItem

CLICKS = 400


class Model:
    """Recommends what it is told to; score NaN or an error on demand."""

    def __init__(self, items: list[str] | None = None, score: float = 0.1) -> None:
        self.items = items or [str(i) for i in range(10)]
        self.score = score
        self.error: Exception | None = None
        self.seconds = 0.001
        self.asked = 0
        self.tick: Callable[[float], None] = lambda seconds: None

    def recommend(
        self, histories: list[list[str]], withheld: frozenset[str] = frozenset()
    ) -> list[Ranking]:
        self.tick(self.seconds)
        if self.error is not None:
            raise self.error
        self.asked += 1
        if not any(histories):
            return [self._ranking(0.5, "cold_start") for _ in histories]
        return [self._ranking(self.score, None) for _ in histories]

    def _ranking(self, score: float, fallback: Fallback | None) -> Ranking:
        rest = [ScoredItem(item, 0.01) for item in self.items[1:]]
        return Ranking([ScoredItem(self.items[0], score), *rest], fallback)


class Shop:
    """Serves clicks by a guard; half of what is clicked is among items "0" to "9"."""

    def __init__(self, clicks: int = CLICKS, users: int = 10_000) -> None:
        self.rng = random.Random(0)
        self.now = 0.0
        self.back: list[tuple[str, str]] = []
        self.guard = Guard(clicks, self._went_back, users=users, clock=lambda: self.now)
        self.model: ServedModel | None = None
        self.count = 0

    def _went_back(self, bad: ServedModel, good: ServedModel, reason: str) -> None:
        assert reason.startswith("by the guard, ")
        self.back.append((bad.version, good.version))
        if self.model is bad:
            self.model = good

    def swap(self, version: str, scorer: Model, on_trial: bool = True) -> ServedModel:
        scorer.tick = self._tick
        self.model = ServedModel(version, scorer, on_trial)  # type: ignore[arg-type]
        return self.model

    def _tick(self, seconds: float) -> None:
        self.now += seconds

    def serve(self, batches: int, size: int = 4, users: int = 40) -> list[tuple[str, Ranking]]:
        answers = []
        for _ in range(batches):
            asked = [(self.click(users), ["1"]) for _ in range(size)]
            assert self.model is not None
            model, (rankings,) = self.guard.recommend(self.model, asked)
            assert len(rankings) == size
            answers += [(model.version, ranking) for ranking in rankings]
        return answers

    def click(self, users: int) -> Click:
        self.count += 1
        item = str(self.rng.randrange(20))
        user = f"u{self.rng.randrange(users)}"
        return Click.model_construct(
            event_id=f"e{self.count}", user_id=user, item_id=item, timestamp=self.count
        )


@pytest.fixture
def shop() -> Shop:
    """Version v1 has served for a while."""
    shop = Shop()
    shop.swap("v1", Model(), on_trial=False)
    shop.serve(300)
    return shop


USELESS = [f"never-{i}" for i in range(10)]


def test_an_equal_model_stays(shop: Shop) -> None:
    shop.swap("v2", Model())
    assert {version for version, _ in shop.serve(1000)} == {"v2"}
    assert shop.back == []


def test_a_worse_model_goes_and_the_one_before_serves_again(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    counter = metrics.ROLLBACKS.labels("worse")._value
    before = counter.get()
    shop.swap("v2", Model(USELESS))
    versions = [version for version, _ in shop.serve(200)]
    assert shop.back == [("v2", "v1")]
    assert versions == sorted(versions, reverse=True)  # v2, then v1 for good
    assert 200 <= versions.count("v2") <= 260  # 200 judged, and the first click of 40 users
    (error,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert error.getMessage().startswith("rolled back from model v2 to v1, worse: HR@10 0.0")
    said = json.loads(JsonFormatter("worker").format(error))
    assert (said["model_version"], said["previous_version"]) == ("v1", "v2")
    assert said["reason"] == "worse"
    assert counter.get() == before + 1


def test_a_delta_is_not_a_swap(shop: Shop) -> None:
    shop.swap("v2", Model(USELESS))
    for number in range(200):  # a delta for every four lists
        shop.serve(1)
        if shop.model is not None and shop.model.version == "v2":
            shop.model = replace(shop.model, delta=number)
    assert shop.back == [("v2", "v1")], "the version is judged by the lists of all its deltas"


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_not_served(shop: Shop, score: float) -> None:
    shop.swap("v2", Model())
    shop.serve(10)
    shop.swap("v3", Model(score=score))
    answers = shop.serve(10)
    assert {version for version, _ in answers} == {"v1"}, "v2 is not through its own watch yet"
    assert all(math.isfinite(i.score) for _, r in answers for i in r.items)
    assert shop.back == [("v3", "v1")]


def test_a_model_that_cannot_score_is_replaced_in_the_same_batch(shop: Shop) -> None:
    broken = Model()
    shop.swap("v2", broken)
    shop.serve(10)
    broken.error = RuntimeError("out of memory")
    assert {version for version, _ in shop.serve(1)} == {"v1"}
    assert shop.back == [("v2", "v1")]


def test_a_slow_model_goes(shop: Shop) -> None:
    slow = Model()
    slow.seconds = 0.1
    shop.swap("v2", slow)
    assert {version for version, _ in shop.serve(400)} == {"v1", "v2"}
    assert shop.back == [("v2", "v1")]


def test_without_another_model_popular_items_replace_scores_that_are_not_finite(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop = Shop()
    shop.swap("v1", Model(score=math.nan), on_trial=False)
    answers = shop.serve(3)
    assert {r.fallback for _, r in answers} == {"not_finite"}
    assert all(math.isfinite(i.score) for _, r in answers for i in r.items)
    assert len(caplog.records) == 1, "said once, not once a batch"
    assert shop.back == []


def test_without_another_model_an_error_is_raised() -> None:
    shop = Shop()
    broken = Model()
    broken.error = ZeroDivisionError()
    shop.swap("v1", broken)
    with pytest.raises(ZeroDivisionError):
        shop.serve(1)


@pytest.mark.parametrize("on_trial", [True, False])
def test_a_version_that_a_person_went_back_to_is_not_rolled_back(
    shop: Shop, on_trial: bool
) -> None:
    shop.swap("v0", Model(USELESS), on_trial=on_trial)
    shop.serve(300)
    assert shop.back == ([("v0", "v1")] if on_trial else [])


def test_zero_guard_clicks_disable_the_guard() -> None:
    shop = Shop(clicks=0)
    shop.swap("v1", Model())
    shop.serve(300)
    shop.swap("v2", Model(USELESS))
    assert {version for version, _ in shop.serve(1000)} == {"v2"}
    assert shop.back == []


def test_the_rest_of_a_batch_that_was_cut_is_answered_by_the_old_model(shop: Shop) -> None:
    """The loop reads the slot once per batch, and may come with the rejected model once more."""
    bad = shop.swap("v2", Model(score=math.nan))
    for _ in range(2):
        model, _ = shop.guard.recommend(bad, [(shop.click(40), ["1"])])
        assert model.version == "v1"
    assert shop.back == [("v2", "v1")]


def test_a_version_that_is_promoted_again_is_on_trial_again(shop: Shop) -> None:
    for _ in range(2):
        shop.swap("v2", Model(USELESS))
        shop.serve(200)
    assert shop.back == [("v2", "v1")] * 2


def test_a_newer_version_is_compared_with_the_last_that_passed_its_trial(shop: Shop) -> None:
    """v2 is useless and v3 no better than v2; that v2 was hardly seen does not save v3."""
    shop.swap("v2", Model(USELESS))
    shop.serve(10)
    shop.swap("v3", Model(USELESS))
    shop.serve(200)
    assert shop.back == [("v3", "v1")]


def test_the_old_model_is_kept_until_the_trial_ends() -> None:
    shop = Shop()
    shop.swap("v1", Model(), on_trial=False)
    shop.serve(300)
    assert shop.model is not None
    old = weakref.ref(shop.model)
    shop.swap("v2", Model())
    shop.serve(50)
    gc.collect()
    assert old() is not None
    shop.serve(400)
    gc.collect()
    assert old() is None


def test_a_bad_model_is_not_kept(shop: Shop) -> None:
    bad = weakref.ref(shop.swap("v2", Model(score=math.nan)))
    shop.serve(1)
    gc.collect()
    assert bad() is None


def test_a_users_lists_are_judged_one_by_one_within_a_batch() -> None:
    shop = Shop()
    model = shop.swap("v1", Model(), on_trial=False)
    clicks = [
        Click.model_construct(event_id=str(i), user_id="u", item_id=item, timestamp=i)
        for i, item in enumerate(["99", "3", "99", "4"])
    ]
    shop.guard.recommend(model, [(click, ["1"]) for click in clicks])
    assert shop.guard._current is not None
    share = shop.guard._current.stats.hit_rate()
    assert list(share.users) == [(2, 3)]


def test_what_is_no_label_judges_no_list() -> None:
    shop = Shop()
    shop.guard = Guard(0, judged=lambda event_type: event_type != "view")
    shop.swap("v1", Model(), on_trial=False)
    assert shop.model is not None
    for event_type, judged in (("click", 0), ("view", 0), ("click", 1)):
        click = shop.click(users=1).model_copy(update={"event_type": event_type})
        shop.guard.recommend(shop.model, [(click, ["1"])])
        assert shop.guard._current is not None
        assert shop.guard._current.stats.judged == judged


def test_the_live_hits_of_two_versions_are_shown() -> None:
    shop = Shop()
    for version in ("a", "b", "c", "b"):
        shop.swap(version, Model(), on_trial=False)
        shop.serve(50)
    shown = {s.labels["version"] for m in metrics.LIVE_JUDGED.collect() for s in m.samples}
    assert {"b", "c"} <= shown
    assert "a" not in shown


def test_memory_is_bounded() -> None:
    shop = Shop(users=100)
    shop.swap("v1", Model(), on_trial=False)
    shop.serve(500, users=10_000)
    assert len(shop.guard._lists) == 100
    tracemalloc.start()
    shop.serve(500, users=1_000_000)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(shop.guard._lists) == 100
    assert grown < 500_000


def test_the_lists_of_the_last_users_are_kept() -> None:
    shop = Shop(users=2)
    model = shop.swap("v1", Model(), on_trial=False)
    for i, user in enumerate(["a", "b", "a", "c"]):
        click = Click.model_construct(event_id=str(i), user_id=user, item_id="1", timestamp=i)
        shop.guard.recommend(model, [(click, ["1"])])
    assert list(shop.guard._lists._lists) == ["a", "c"]


def test_it_costs_microseconds(shop: Shop) -> None:
    class Ready(Model):
        def recommend(
            self, histories: list[list[str]], withheld: frozenset[str] = frozenset()
        ) -> list[Ranking]:
            return ready[: len(histories)]

    ready = Model().recommend([["1"]] * 256)
    shop.guard._clock = time.perf_counter
    shop.swap("v2", Ready())
    assert shop.model is not None
    asked = [(shop.click(5000), ["1"]) for _ in range(256)]
    shop.guard.recommend(shop.model, asked)
    best = math.inf
    for _ in range(20):
        began = time.perf_counter()
        shop.guard.recommend(shop.model, asked)
        best = min(best, time.perf_counter() - began)
    assert best / 256 < 50e-6  # about 3 µs; a busy machine may take longer
