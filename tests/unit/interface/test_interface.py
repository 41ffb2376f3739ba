"""`import nextclick`: from a file to a recommender, its lists, its numbers and a registry."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import nextclick
from nextclick.services.simulator.missions import MissionWorld
from nextclick.services.simulator.publish import click_frame
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.model import Constraints, Scorer
from nextclick.shared.model.checkpoint import to_files
from nextclick.shared.model.related import RelatedLists
from nextclick.shared.schemas import ScoredItem
from nextclick.trainer.collect import EventLog
from nextclick.trainer.data import Split, click_log
from nextclick.trainer.fit.related import related_lists
from tests.unit import builders

LAST_CLICK = 1_700_000_000_000
GAP_MS = 30 * 60 * 1000


@pytest.fixture(scope="module")
def simulated() -> pd.DataFrame:
    return click_frame(MissionWorld().clicks(1500, 1), LAST_CLICK, rate=1, seed=0)


@pytest.fixture(scope="module")
def clicks(simulated: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    path = tmp_path_factory.mktemp("clicks") / "clicks.csv"
    simulated.to_csv(path, index=False)
    return nextclick.read_clicks(path)


@pytest.fixture(scope="module")
def fitted(clicks: pd.DataFrame) -> nextclick.Recommender:
    return nextclick.fit(clicks, seed=1, max_epochs=1, device="cpu")


@pytest.fixture
def random_model() -> nextclick.Recommender:
    """Random weights over items "1" to "30"."""
    return nextclick.Recommender(builders.checkpoint(), device="cpu")


def rows(frame: pd.DataFrame) -> list[tuple[object, ...]]:
    return list(frame[["user_id", "item_id", "timestamp"]].itertuples(index=False, name=None))


def ids(items: Sequence[ScoredItem]) -> list[str]:
    return [item.item_id for item in items]


def test_every_name_is_there_and_importing_nextclick_is_light() -> None:
    code = """
import sys, nextclick
heavy = {"torch", "pandas", "numpy", "pydantic", "confluent_kafka"} & sys.modules.keys()
assert not heavy, heavy
assert set(nextclick.__all__) <= set(dir(nextclick))
from nextclick import *
assert all(name in globals() for name in nextclick.__all__)
try:
    nextclick.no_such_name
except AttributeError as error:
    assert "no_such_name" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_file_is_read(simulated: pd.DataFrame, clicks: pd.DataFrame) -> None:
    assert rows(clicks) == rows(simulated)
    assert clicks["event_id"].is_unique
    assert clicks["timestamp"].dtype == np.int64


def test_columns_can_have_other_names(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text("who,what,when\nu,a,1600000000\n")
    names = {"user": "who", "item": "what", "time": "when"}
    assert rows(nextclick.read_clicks(path, columns=names)) == [("u", "a", 1_600_000_000_000)]


def test_what_is_wrong_with_a_line_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text("user,item,time\nu,a,1600000000\nu,,1600000001\n")
    with pytest.warns(UserWarning, match="empty item id"):
        clicks = nextclick.read_clicks(path)
    assert len(clicks) == 1


def test_an_event_log_is_read_and_left_as_it_is(tmp_path: Path, simulated: pd.DataFrame) -> None:
    EventLog(str(tmp_path)).import_clicks(simulated)
    before = sorted(tmp_path.rglob("*"))
    assert rows(nextclick.read_clicks(tmp_path)) == rows(simulated)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_without_clicks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no click"):
        nextclick.read_clicks(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_fit_is_a_function_of_clicks_and_seed(
    clicks: pd.DataFrame, fitted: nextclick.Recommender
) -> None:
    again = nextclick.fit(clicks, seed=1, max_epochs=1, device="cpu")
    one, other = (to_files(r.checkpoint, "v", "") for r in (fitted, again))
    assert one["model.safetensors"] == other["model.safetensors"]
    assert fitted.checkpoint.training["seed"] == 1
    assert fitted.name == "BST default"


def test_a_fit_learns_from_all_but_the_newest(
    clicks: pd.DataFrame, fitted: nextclick.Recommender
) -> None:
    log = click_log(clicks, GAP_MS)
    assert fitted.items == log.ids_in(Split.TRAIN)
    assert fitted.checkpoint.popularity.sum() < len(clicks)


def test_events_weigh_by_their_type(
    clicks: pd.DataFrame, fitted: nextclick.Recommender, tmp_path: Path
) -> None:
    """What weighs nothing is no click, what weighs more is another model."""
    shown = clicks.assign(
        event_type="impression", item_id="shown", event_id="s" + clicks["event_id"]
    )
    both = pd.concat([clicks, shown]).sort_values("timestamp", kind="stable")
    same = nextclick.fit(both, seed=1, max_epochs=1, device="cpu")
    assert same.items == fitted.items
    one, other = (to_files(r.checkpoint, "v", "") for r in (fitted, same))
    assert one["model.safetensors"] == other["model.safetensors"]
    learned = nextclick.fit(
        both, seed=1, max_epochs=1, device="cpu", event_weights={"impression": 1}
    )
    assert "shown" in learned.items
    both.to_csv(tmp_path / "both.csv", index=False)
    assert len(nextclick.read_clicks(tmp_path / "both.csv")) == len(clicks)
    kept = nextclick.read_clicks(tmp_path / "both.csv", event_weights={"impression": 1})
    assert len(kept) > len(clicks)
    evaluated = nextclick.evaluate(fitted, both).drop(columns="seconds")
    pd.testing.assert_frame_equal(
        evaluated, nextclick.evaluate(fitted, clicks).drop(columns="seconds")
    )


def test_the_clicks_of_bots_count_unless_users_are_bounded(clicks: pd.DataFrame) -> None:
    bot = clicks.head(300).assign(user_id="bot", timestamp=int(clicks["timestamp"].max()))
    bot["event_id"] = "b" + bot["event_id"]
    both = pd.concat([clicks, bot])
    for bound_users, fewer in ((False, 0), (True, 250)):  # 50 count
        fitted = nextclick.fit(both, max_epochs=1, device="cpu", bound_users=bound_users)
        assert fitted.checkpoint.training["clicks"] == len(both) - fewer


def test_times_may_be_datetimes_and_ids_integers(
    clicks: pd.DataFrame, fitted: nextclick.Recommender
) -> None:
    other = clicks.assign(
        user_id=clicks["user_id"].astype(int),
        timestamp=pd.to_datetime(clicks["timestamp"], unit="ms"),
    )
    numbers = nextclick.evaluate(fitted, other)
    pd.testing.assert_frame_equal(
        numbers.drop(columns="seconds"), nextclick.evaluate(fitted, clicks).drop(columns="seconds")
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.drop(columns="item_id"), "no column item_id"),
        (lambda c: c.assign(user_id=None), "without a value in user_id"),
        (lambda c: c.assign(timestamp="noon"), "timestamp holds neither"),
        (lambda c: c.assign(user_id=range(len(c))), "no session in the log has two clicks"),
        (lambda c: c.assign(item_id="one"), "fewer than two items"),
    ],
)
def test_other_frames_are_refused(
    clicks: pd.DataFrame, change: Callable[[pd.DataFrame], pd.DataFrame], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        nextclick.fit(change(clicks))


def test_it_recommends_as_the_worker_does(random_model: nextclick.Recommender) -> None:
    histories = [["3", "7"], [], ["never seen"], [str(i) for i in range(1, 20)]]
    served = Scorer(builders.checkpoint(), builders.CPU, top_k=10).recommend(histories)
    for history, ranking in zip(histories, served, strict=True):
        answer = random_model.recommend(history)
        assert ids(answer) == ids(ranking.items)
        assert [i.score for i in answer] == pytest.approx([i.score for i in ranking.items], 1e-5)


def test_a_list_keeps_to_the_rules(random_model: nextclick.Recommender) -> None:
    everything = ids(random_model.recommend(["3", "7"], k=100))
    assert sorted(everything, key=int) == [str(i) for i in range(1, 31)]
    rules = random_model.recommend(
        ["3", "7"], k=4, exclude=[everything[0], "never seen"], without_history=True
    )
    assert ids(rules) == [i for i in everything[1:] if i not in ("3", "7")][:4]
    assert ids(random_model.recommend(iter(np.array([3, 7])), k=100)) == everything


def test_related_items_are_there_after_a_fit_and_come_back_from_a_registry(
    fitted: nextclick.Recommender, tmp_path: Path
) -> None:
    item, registry = fitted.items[3], str(tmp_path / "registry")
    similar, bought = fitted.similar(item, k=4), fitted.bought_together(item, k=4)
    for found in (similar, bought):
        assert len(found) == 4
        assert item not in ids(found)
        scores = [one.score for one in found]
        assert scores == sorted(scores, reverse=True)
    checkpoint = replace(fitted.checkpoint, related=fitted.related)
    nextclick.Recommender(checkpoint, device="cpu").publish(registry)
    same = nextclick.Recommender.from_registry(registry, device="cpu")
    assert (same.similar(item, k=4), same.bought_together(item, k=4)) == (similar, bought)


def test_a_version_from_before_knows_nothing_of_purchases(
    random_model: nextclick.Recommender,
) -> None:
    with pytest.raises(nextclick.NextclickError, match="does not know what is bought together"):
        random_model.bought_together("7")
    with pytest.raises(ValueError, match="is not among the model's 30 items"):
        random_model.bought_together("never seen")


def test_related_items_are_made_or_read_when_they_are_asked_for(
    clicks: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def counted(*arguments: Any) -> RelatedLists:
        made.append(1)
        return related_lists(*arguments)

    monkeypatch.setattr("nextclick.interface.training.related_lists", counted)
    fitted = nextclick.fit(clicks, seed=1, max_epochs=1, device="cpu")
    fitted.recommend([fitted.items[0]])
    assert made == []
    version = fitted.publish(str(tmp_path))
    fitted.similar(fitted.items[0])
    assert made == [1]

    file = tmp_path / version / "related.safetensors"
    content = file.read_bytes()
    file.unlink()
    loaded = nextclick.Recommender.from_registry(str(tmp_path), device="cpu")
    with pytest.raises(nextclick.NextclickError, match=r"related\.safetensors is missing"):
        loaded.similar(fitted.items[0])
    file.write_bytes(content)
    assert loaded.similar(fitted.items[0]) == fitted.similar(fitted.items[0])


def test_without_lists_similar_items_are_those_with_the_nearest_vectors(
    random_model: nextclick.Recommender,
) -> None:
    weights = random_model.checkpoint.model.state_dict()["network.item_embedding.weight"]
    vectors = weights.numpy()[1:]
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors[6]
    found = random_model.similar("7", k=5)
    assert ids(found) == [str(i + 1) for i in np.argsort(-cosines)[1:6]]
    assert [item.score for item in found] == pytest.approx(np.sort(cosines)[::-1][1:6], abs=1e-6)
    assert len(random_model.similar("7", k=100)) == 29
    with pytest.raises(ValueError, match="'never seen' is not among the model's 30 items"):
        random_model.similar("never seen")


def test_an_explanation_is_of_the_list_that_is_asked_for(
    random_model: nextclick.Recommender,
) -> None:
    explanation = random_model.explain(["3", "7"], k=15)
    assert explanation.items == random_model.recommend(["3", "7"], k=15)
    assert np.shape(explanation.contributions) == (15, 2)
    one = Scorer(builders.checkpoint(), builders.CPU, 10)
    without = one.recommend([["3"]], [Constraints(30)])[0].items
    score = {item.item_id: item.score for item in without}
    first, (_, nats) = explanation.items[0], explanation.contributions[0]
    assert nats == pytest.approx(np.log(first.score / score[first.item_id]), abs=1e-4)


def test_a_history_is_a_list_and_k_counts(random_model: nextclick.Recommender) -> None:
    with pytest.raises(TypeError, match="a list of item ids"):
        random_model.recommend("37")
    for ask in (random_model.recommend, random_model.explain):
        with pytest.raises(ValueError, match="k = 0"):
            ask(["3"], 0)
    with pytest.raises(ValueError, match="k = -1"):
        random_model.similar("3", -1)


def test_an_evaluation_is_that_of_the_trainer(
    clicks: pd.DataFrame, fitted: nextclick.Recommender
) -> None:
    numbers = nextclick.evaluate([fitted, "popularity", "V-SkNN"], clicks, ks=(1, 10))
    assert list(numbers.index) == ["BST default", "Popularity", "V-SkNN"]
    assert list(numbers)[:4] == ["hr@1", "hr@10", "mrr@1", "mrr@10"]
    log = click_log(clicks, GAP_MS)
    cases = np.flatnonzero((log.split == Split.TEST) & (np.arange(len(clicks)) > log.starts))
    assert (numbers["cases"] == len(cases)).all()
    hits = 0
    for case in cases:
        history = [log.item_ids[i] for i in log.items[log.starts[case] : case]]
        hits += log.item_ids[log.items[case]] in ids(fitted.recommend(history))
    assert numbers.loc["BST default", "hr@10"] == hits / len(cases)
    # Counting the same clicks beats one list for all, also on so few.
    assert numbers.loc["V-SkNN", "hr@10"] > numbers.loc["Popularity", "hr@10"]
    assert (numbers["hr@1"] == numbers["mrr@1"]).all()


def test_an_evaluation_needs_a_known_name_and_something_to_ask(clicks: pd.DataFrame) -> None:
    with pytest.raises(ConfigurationError, match="methods nosuch: not known"):
        nextclick.evaluate("no-such", clicks)
    few = pd.DataFrame({"user_id": "u", "item_id": list("abab"), "timestamp": range(4)})
    with pytest.raises(ConfigurationError, match="too few clicks"):
        nextclick.evaluate("popularity", few)


def test_it_goes_into_a_registry_and_comes_back(
    random_model: nextclick.Recommender, tmp_path: Path
) -> None:
    registry = nextclick.open_registry(str(tmp_path / "registry"))
    with pytest.raises(nextclick.NextclickError, match="has no model yet"):
        nextclick.Recommender.from_registry(registry)
    first = random_model.publish(registry)
    assert random_model.name == first
    second = nextclick.Recommender(builders.checkpoint(seed=1), device="cpu").publish(registry)
    current = nextclick.Recommender.from_registry(str(tmp_path / "registry"), device="cpu")
    assert current.version == second
    old = nextclick.Recommender.from_registry(registry, first, device="cpu")
    assert old.recommend(["3"]) == random_model.recommend(["3"])
    assert old.recommend(["3"]) != current.recommend(["3"])


def test_the_settings_name_the_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NEXTCLICK_REGISTRY__URL", str(tmp_path / "ours"))
    assert nextclick.open_registry().url == str(tmp_path / "ours")
