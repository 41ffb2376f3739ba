from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from nextclick.shared.errors import Unavailable
from nextclick.shared.item_features import ItemContent
from nextclick.shared.model import (
    BST,
    BSTConfig,
    Checkpoint,
    Scorer,
    SessionModel,
    SourceBSTConfig,
)
from nextclick.shared.registry import Pointer, Registry
from nextclick.trainer.collect import EventLog
from nextclick.trainer.data import LeftOut, click_log
from nextclick.trainer.fit.loop import Epoch
from nextclick.trainer.fit.presets import DEFAULT, Preset, Regularisation, preset
from nextclick.trainer.fit.refit import refit
from nextclick.trainer.main import TRAINED_ON
from nextclick.trainer.retrain import (
    FitLimits,
    Outcome,
    current_champion,
    fit_candidate,
    learnable_contents,
    retrain,
)
from tests.unit.builders import CPU

SHAPE = BSTConfig(items=1, embed_dim=16, heads=2, layers=1, feedforward=16)
RECIPE = replace(
    DEFAULT, shape=SHAPE, regularisation=Regularisation(0.0, 0.0, 0.0), batch_size=64,
    epochs=5, patience=5, steps=0,
    learning_rate=5e-3, warm_learning_rate=2e-3,
)  # fmt: skip


def pattern_log(items: int, users: int = 60, clicks: int = 40, offset: int = 0) -> pd.DataFrame:
    """Every user walks the items in a circle; popularity says nothing."""
    starts = np.random.default_rng(offset).integers(0, items, users)
    rows = [
        (f"{offset}-{user}-{i}", f"u{offset}-{user}", f"item{(starts[user] + i) % items}", i)
        for i in range(clicks)
        for user in range(users)
    ]
    return pd.DataFrame(rows, columns=["event_id", "user_id", "item_id", "timestamp"])


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(str(tmp_path))


def run(frame: pd.DataFrame, registry: Registry, **options: object) -> Outcome | None:
    return retrain(frame, registry, RECIPE, FitLimits(seed=1), gap_ms=0, device=CPU, **options)  # type: ignore[arg-type]


def test_the_first_model_is_published_and_the_next_starts_from_it(registry: Registry) -> None:
    first = run(pattern_log(30), registry)
    assert first is not None
    assert first.version is not None, first.reason
    manifest = registry.manifest(first.version)
    assert manifest.parent is None
    assert manifest.training["warm_start"] is False
    assert manifest.training["clicks"] == 2400
    assert manifest.metrics["test_hr@10"] > manifest.metrics["test_popularity_hr@10"]
    related = registry.related_lists(first.version)
    assert related is not None
    ids = registry.load(first.version).vocabulary.item_ids
    beside = related.bought_together.of(ids.index("item7") + 1, ids, 4)
    assert {item.item_id for item in beside} <= {f"item{i}" for i in range(30)} - {"item7"}

    wider = pd.concat([pattern_log(30), pattern_log(33, offset=1)], ignore_index=True)
    second = run(wider, registry)
    assert second is not None
    assert second.version is not None, second.reason
    child = registry.load(second.version)
    assert child.parent == first.version
    assert child.training["warm_start"] is True
    old_ids = registry.load(first.version).vocabulary.item_ids
    assert child.vocabulary.item_ids[: len(old_ids)] == old_ids
    assert len(child.vocabulary) == 33


def test_a_candidate_that_learned_nothing_is_refused_and_changes_nothing(
    registry: Registry,
) -> None:
    """One item is clicked nearly always: nothing beats the popularity list."""
    frame = pattern_log(30)
    frame["item_id"] = np.where(np.arange(len(frame)) % 10 < 9, "item0", frame["item_id"])
    frame["item_id"] = np.where(frame["timestamp"] >= 32, "item0", frame["item_id"])
    outcome = run(frame, registry)
    assert outcome is not None
    assert outcome.version is None
    assert "no better than popularity" in outcome.reason
    assert registry.pointer() is None


def test_a_stopped_retraining_changes_nothing(registry: Registry) -> None:
    assert run(pattern_log(30), registry, stopped=lambda: True) is None
    assert registry.pointer() is None


def test_another_shape_than_the_champions_starts_from_scratch(registry: Registry) -> None:
    run(pattern_log(30), registry)
    name, champion = current_champion(registry)
    data = click_log(pattern_log(30), gap_ms=0)
    for recipe, warm in (
        (RECIPE, True),
        (replace(RECIPE, shape=SHAPE.model_copy(update={"layers": 2})), False),
    ):
        limits = FitLimits(seed=1, max_epochs=1)
        candidate = fit_candidate(data, champion, name, recipe, limits, device=CPU)
        assert candidate.training["warm_start"] is warm


def test_a_retraining_that_changes_no_ranking_publishes_nothing(registry: Registry) -> None:
    first = run(pattern_log(30), registry)
    again = run(pattern_log(30), registry)
    assert first is not None
    assert again is not None
    assert again.version is None
    assert registry.versions() == [first.version]


def test_the_sources_table_and_random_split_are_a_preset() -> None:
    assert preset("source_table").sampling == "source"
    data = click_log(pattern_log(30), gap_ms=0)
    recipe = replace(RECIPE, sampling="source", epochs=3)
    candidate = fit_candidate(data, None, None, recipe, FitLimits(1), device=CPU)
    assert candidate.training["epochs"] == 3
    again = fit_candidate(data, None, None, recipe, FitLimits(1), device=CPU)
    assert candidate.metrics == again.metrics


@pytest.fixture(scope="module")
def fitted_once() -> Checkpoint:
    data = click_log(pattern_log(30), gap_ms=0)
    return fit_candidate(data, None, None, RECIPE, FitLimits(1), device=CPU)


@pytest.fixture
def champion(registry: Registry, fitted_once: Checkpoint) -> str:
    """A registry whose current version knows the pattern of 30 items."""
    return registry.publish(fitted_once)


def untrained(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[SessionModel], None] = lambda model: None
) -> None:
    """Replace the fit by one that only does `change` to the model."""

    def fit(model: SessionModel, *_: object, **__: object) -> list[Epoch]:
        with torch.no_grad():
            change(model)
        model.eval()
        return [Epoch(0, float("nan"), 1.0, 0.5, 0.0)]

    monkeypatch.setattr("nextclick.trainer.fit.pipeline.fit", fit)


def test_a_warm_start_takes_over_every_weight_item_by_item(
    registry: Registry, champion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, served = current_champion(registry)
    assert name == champion
    assert served is not None
    untrained(monkeypatch)
    data = click_log(pattern_log(33, offset=1), gap_ms=0)
    candidate = fit_candidate(data, served, name, RECIPE, FitLimits(1), device=CPU)
    assert candidate.training["warm_start"] is True
    assert candidate.parent == name
    assert len(candidate.vocabulary) == 33
    old, new = served.model.state_dict(), candidate.model.state_dict()
    for key, value in old.items():
        if not key.startswith(("neighbours.", "about_share")):  # found anew at every fit
            got = new[key][: len(value)] if "item_embedding" in key else new[key]
            assert torch.equal(got, value)
        if "item_embedding" in key:
            assert new[key][31:].abs().min() > 0  # new items: at random, as ever


def test_items_without_a_click_in_the_log_are_retired(
    registry: Registry, champion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the items go, the others keep their weights, whatever their row now is."""
    _, served = current_champion(registry)
    assert served is not None
    untrained(monkeypatch)
    clicks = pattern_log(33, offset=1)
    odd = clicks[clicks["item_id"].str.slice(start=4).astype(int) % 2 == 1]
    candidate = fit_candidate(
        click_log(odd, gap_ms=0), served, champion, RECIPE, FitLimits(1), device=CPU
    )
    assert candidate.training["warm_start"] is True
    assert candidate.training["retired_items"] == 15
    staying = [item for item in served.vocabulary.item_ids if int(item[4:]) % 2]
    assert candidate.vocabulary.item_ids == [*staying, "item31"]
    assert len(candidate.popularity) == 16
    old, new = (
        model.network.item_embedding.weight
        for model in (served.model, candidate.model)
        if isinstance(model, BST)
    )
    rows = served.vocabulary.rows(staying)
    assert torch.equal(new[1:16], old[torch.from_numpy(rows)])
    assert new[16].abs().min() > 0  # the new item: at random, as ever
    recommended = Scorer(candidate, CPU, top_k=16).recommend([["item1"], ["item0"]])
    assert {scored.item_id for scored in recommended[0].items} == {*staying, "item31"}
    assert recommended[1].fallback == "unknown_items", "a retired item is no item"


@pytest.mark.parametrize("recipe", [RECIPE, preset("source")])
def test_an_item_can_go_and_another_come_at_once(recipe: Preset) -> None:
    """The tables of items are told from others even when their number stays the same."""
    few = SHAPE.embed_dim - 1  # a table of items that is as high as other weights
    first = click_log(pattern_log(few, users=10), gap_ms=0)
    served = fit_candidate(first, None, None, recipe, FitLimits(1, max_epochs=1), device=CPU)
    frame = pattern_log(few, users=10).replace({"item_id": {"item0": "other"}})
    candidate = fit_candidate(
        click_log(frame, gap_ms=0), served, "a", recipe, FitLimits(1, max_epochs=1), device=CPU
    )
    assert candidate.training["warm_start"] is True
    assert candidate.training["retired_items"] == 1
    assert set(candidate.vocabulary.item_ids) == set(frame["item_id"])


def turn_items_round(model: SessionModel) -> None:
    assert isinstance(model, BST)
    model.network.item_embedding.weight[1:15].neg_()


def test_a_candidate_worse_than_the_champion_is_refused_and_changes_nothing(
    registry: Registry, champion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    untrained(monkeypatch, turn_items_round)
    monkeypatch.setattr(  # else the neighbours' vote would save it
        "nextclick.trainer.fit.mixing.choose_neighbours_share",
        lambda model, *_: model.neighbours.weight.zero_(),
    )
    outcome = run(pattern_log(30), registry)
    assert outcome is not None
    assert outcome.version is None
    assert "worse than the champion beyond noise" in outcome.reason
    assert registry.versions() == [champion]
    assert registry.pointer() == Pointer(champion, [])


def test_a_version_that_waits_is_neither_compared_with_nor_started_from(
    registry: Registry, champion: str
) -> None:
    waits = registry.publish(registry.load(champion), promote=False)
    wider = pd.concat([pattern_log(30), pattern_log(33, offset=1)], ignore_index=True)
    outcome = run(wider, registry, promote=False)
    assert outcome is not None
    assert outcome.version is not None, outcome.reason
    assert outcome.waits
    assert registry.manifest(outcome.version).parent == champion
    assert registry.pointer() == Pointer(champion, [], waiting=outcome.version)
    assert registry.versions() == [champion, waits, outcome.version]


def test_a_stop_after_a_champion_leaves_it_current(registry: Registry, champion: str) -> None:
    assert run(pattern_log(31), registry, stopped=lambda: True) is None
    assert registry.versions() == [champion]


def test_a_fit_starts_from_scratch_if_the_champion_cannot_be_loaded(
    registry: Registry, champion: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / champion / "model.safetensors").write_bytes(b"")
    outcome = run(pattern_log(30), registry)
    assert outcome is not None
    assert outcome.version is not None
    assert registry.manifest(outcome.version).parent is None
    assert registry.manifest(outcome.version).training["warm_start"] is False
    assert "so the fit starts from scratch" in caplog.text
    assert registry.pointer() == Pointer(outcome.version, [champion])


def overflow(model: SessionModel) -> None:
    """Weights that are finite, and scores that are not."""
    for parameter in model.parameters():
        parameter.fill_(3e38)


def test_a_fit_starts_from_scratch_if_the_champions_scores_are_not_finite(
    registry: Registry, fitted_once: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    broken = copy.deepcopy(fitted_once)
    with torch.no_grad():
        overflow(broken.model)
    served = registry.publish(broken)
    outcome = run(pattern_log(30), registry)
    assert outcome is not None
    assert outcome.version is not None
    assert registry.manifest(outcome.version).parent is None
    assert f"the champion {served} is not usable" in caplog.text


def test_a_candidate_whose_scores_are_not_finite_is_refused(
    registry: Registry, champion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    untrained(monkeypatch, overflow)
    outcome = run(pattern_log(31), registry)
    assert outcome is not None
    assert (outcome.version, outcome.refusal) == (None, "not_finite")
    assert registry.versions() == [champion]


def test_a_registry_that_is_away_ends_the_retraining_as_unavailable(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise Unavailable("registry away")

    monkeypatch.setattr(registry, "pointer", away)
    with pytest.raises(Unavailable):
        run(pattern_log(30), registry)


def test_the_manifest_tells_the_training_data(registry: Registry) -> None:
    frame = pattern_log(30)
    frame["timestamp"] = 1_700_000_000_000 + frame["timestamp"].to_numpy()[::-1] * 1000
    outcome = run(frame, registry)
    assert outcome is not None
    assert outcome.version is not None, outcome.reason
    manifest = registry.manifest(outcome.version)
    assert manifest.preset == "default"
    assert {k: manifest.training[k] for k in ("clicks", "users", "items", "seed")} == {
        "clicks": 2400,
        "users": 60,
        "items": 30,
        "seed": 1,
    }
    assert manifest.training["first_click"] == "2023-11-14T22:13:20+00:00"
    assert manifest.training["last_click"] == "2023-11-14T22:13:59+00:00"
    assert 1 <= manifest.training["epochs"] <= RECIPE.epochs
    assert manifest.metrics["test_cases"] == 240
    assert manifest.metrics["validation_loss"] < np.log(30)


def test_clicks_that_do_not_count_are_said(registry: Registry) -> None:
    """A bot that clicks all items in their order, 1,000 times within a second."""
    bot = pattern_log(30, users=1, clicks=1000).assign(user_id="bot", timestamp=500)
    frame = pd.concat([pattern_log(30), bot.assign(event_id="bot-" + bot["event_id"])])
    outcome = run(frame, registry, max_per_minute=100)
    assert outcome is not None
    assert outcome.version is not None, outcome.reason
    assert outcome.left_out == LeftOut(rate=900, share=50, users=1, limit=50)
    training = registry.manifest(outcome.version).training
    assert (training["clicks"], training["left_out"]) == (2400 + 50, 950)


def test_the_manifest_tells_the_quality_for_each_event_type(registry: Registry) -> None:
    frame = pattern_log(30)
    types = np.where(np.arange(len(frame)) % 2, "view", "purchase")
    outcome = run(frame.assign(event_type=types), registry)
    assert outcome is not None
    assert outcome.version is not None, outcome.reason
    metrics = registry.manifest(outcome.version).metrics
    of_types = [metrics["test_hr@10_of_view"], metrics["test_hr@10_of_purchase"]]
    assert min(of_types) <= metrics["test_hr@10"] <= max(of_types)


def test_the_published_model_knows_what_was_held_out(registry: Registry) -> None:
    """An item that only the newest clicks have is served; the model that was judged lacks it."""
    frame = pattern_log(30)
    frame.loc[frame["timestamp"] >= 38, "item_id"] = "brand new"
    outcome = run(frame, registry)
    assert outcome is not None
    assert outcome.version is not None, outcome.reason
    served, judged = registry.load(outcome.version), registry.load_judged(outcome.version)
    assert "brand new" in served.vocabulary.item_ids
    assert "brand new" not in judged.vocabulary.item_ids
    assert served.calibration == judged.calibration
    assert isinstance(served.model, BST)
    assert isinstance(judged.model, BST)
    assert served.model.about_share == judged.model.about_share
    assert served.model.neighbours.weight == judged.model.neighbours.weight
    new = served.vocabulary.rows(["brand new"])[0] - 1
    assert served.popularity[new] == 60
    added = served.training["refit"]
    assert (added["clicks"], added["items"]) == (480, 1)
    assert added["hr@10_after"] > added["hr@10_before"]
    (recommended,) = Scorer(served, CPU, top_k=10).recommend([["item1"]])
    assert "brand new" in [item.item_id for item in recommended.items]


def test_a_refit_changes_no_verdict_and_no_weight_of_the_models_that_are_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refit would have learned the next test: it is not compared with, and nothing starts there.

    So a gate refuses and publishes exactly what it would without refits.
    """
    rng = np.random.default_rng(0)
    stream = pattern_log(30, users=30)
    stream["item_id"] = np.where(rng.random(len(stream)) < 0.5, stream["item_id"], "item7")

    def chain(folder: Path) -> tuple[list[Outcome], list[Checkpoint]]:
        registry, outcomes, judged = Registry(str(folder)), [], []
        for clicks in (700, 720, 1200):
            outcome = run(stream[:clicks], registry)
            assert outcome is not None
            outcomes.append(outcome)
            judged.append(registry.load_judged(registry.versions()[-1]))
        return outcomes, judged

    outcomes, judged = chain(tmp_path / "refitted")
    assert "refit" in judged[-1].training
    monkeypatch.setattr("nextclick.trainer.retrain.refit_checked", lambda *_, **__: None)
    expected, as_judged = chain(tmp_path / "not refitted")
    assert [one.reason for one in outcomes] == [one.reason for one in expected]
    assert [bits(one) for one in judged] == [bits(one) for one in as_judged]
    assert [one.metrics for one in judged] == [one.metrics for one in as_judged]


def test_a_stop_during_the_refit_changes_nothing(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def refit_when_stopped(*arguments: object, **options: object) -> Checkpoint:
        begun.append(True)
        return refit(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("nextclick.trainer.retrain.refit", refit_when_stopped)
    assert run(pattern_log(30, users=30), registry, stopped=lambda: bool(begun)) is None
    assert begun
    assert registry.versions() == []


@pytest.mark.parametrize("broken", ["worse", "nan"])
def test_a_refit_that_is_worse_on_what_it_knows_is_not_published(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def broken_refit(judged: Checkpoint, *_: object, **__: object) -> Checkpoint:
        changed = copy.deepcopy(judged)
        assert isinstance(changed.model, BST)
        with torch.no_grad():
            if broken == "nan":
                overflow(changed.model)
            else:
                turn_items_round(changed.model)
                changed.model.neighbours.weight.zero_()
        return changed

    monkeypatch.setattr("nextclick.trainer.retrain.refit", broken_refit)
    outcome = run(pattern_log(30), registry)
    assert outcome is not None
    assert outcome.version is not None, outcome.reason
    served = registry.load(outcome.version)
    assert bits(served) == bits(registry.load_judged(outcome.version))
    assert "refit" not in served.training
    said = "not finite" if broken == "nan" else "HR@10 on the test clicks, which it knows, fell"
    assert said in served.training["not_refitted"]


def single_clicks() -> pd.DataFrame:
    """A shop whose shoppers click once each: there is not one window to learn from."""
    return pattern_log(20, users=1200, clicks=1)


def long_pauses() -> pd.DataFrame:
    frame = pattern_log(20)
    return frame.assign(timestamp=frame["timestamp"] * 10_000)


@pytest.mark.parametrize(
    ("frame", "gap"),
    [(single_clicks(), 0), (long_pauses(), 1000), (single_clicks()[:0], 0)],
    ids=["single clicks", "long pauses", "no clicks"],
)
def test_a_log_with_nothing_to_learn_from_is_refused_with_the_reason(
    registry: Registry, frame: pd.DataFrame, gap: int
) -> None:
    """Not a crash: the trainer would meet the same log again after every restart."""
    outcome = retrain(frame, registry, RECIPE, FitLimits(1), gap_ms=gap, device=CPU)
    assert outcome is not None
    assert outcome.version is None
    assert outcome.reason
    assert registry.pointer() is None


def test_a_shop_with_one_item_is_refused_with_the_reason(registry: Registry) -> None:
    recipe = replace(RECIPE, negatives=1, epochs=1)
    outcome = retrain(pattern_log(1), registry, recipe, FitLimits(1), gap_ms=0, device=CPU)
    assert outcome is not None
    assert outcome.version is None


def test_a_log_without_validation_cases_still_gives_a_version_that_loads(
    registry: Registry,
) -> None:
    """Only new items were clicked for a while, so no validation target was ever trained on."""
    frame = pattern_log(30)
    new = frame["timestamp"].between(32, 35)
    frame.loc[new, "item_id"] = "new" + frame.loc[new, "item_id"]
    outcome = run(frame, registry)
    assert outcome is not None
    assert outcome.version is not None, outcome.reason
    assert registry.load(outcome.version).metrics["test_hr@10"] > 0.5


def test_a_retired_item_is_not_learned_and_the_rest_is(registry: Registry) -> None:
    first = run(pattern_log(30), registry)
    assert first is not None
    second = run(pattern_log(30), registry, retired=frozenset({"item3", "unheard-of"}))
    assert second is not None
    assert second.version is not None, second.reason
    vocabulary = registry.load(second.version).vocabulary.item_ids
    assert sorted(vocabulary) == sorted(f"item{i}" for i in range(30) if i != 3)
    assert registry.manifest(second.version).training["retired_items"] == 1


def bits(checkpoint: Checkpoint) -> tuple[object, ...]:
    """All that a model serves with."""
    state = checkpoint.model.state_dict()
    weights = {name: value.numpy().tobytes() for name, value in state.items()}
    return weights, checkpoint.vocabulary.item_ids, checkpoint.popularity.tolist()


def test_a_retraining_after_forgetting_gives_the_model_of_a_log_that_never_held_the_user(
    tmp_path: Path, registry: Registry
) -> None:
    """Bit for bit, though the champion was trained on the user."""
    frame = pattern_log(30).assign(event_type="click", arrival=lambda f: f["timestamp"])
    forgotten = "u0-7"
    theirs = frame["user_id"] == forgotten
    frame.loc[theirs & (frame["timestamp"] == 3), "item_id"] = "an item of theirs alone"
    log, without = EventLog(str(tmp_path / "log")), EventLog(str(tmp_path / "without"))
    log.import_clicks(frame)
    without.import_clicks(frame[~theirs])

    def published(log: EventLog, registry: Registry) -> Checkpoint:
        count = log.tombstones().count
        outcome = run(log.read(1900, TRAINED_ON), registry, forget_count=count)
        assert outcome is not None
        assert outcome.version is not None, outcome.reason
        return registry.load(outcome.version)

    before = published(log, registry)
    assert log.forget(forgotten, moment=100).rows == 40
    after = published(log, registry)
    clean = published(without, Registry(str(tmp_path / "other")))
    assert bits(after) == bits(clean)
    assert bits(before) != bits(clean)
    assert after.parent is None
    assert after.training["warm_start"] is False
    assert after.training["forget_count"] == 1
    assert "forgotten" in after.training["restarted"]
    (first, second) = registry.versions()
    assert registry.trained_before(1) == [first]

    others = pattern_log(33, offset=1).assign(event_type="click")
    wider = pd.concat([log.read(columns=TRAINED_ON), others], ignore_index=True)
    third = run(wider, registry, forget_count=1)
    assert third is not None
    assert third.version is not None, third.reason
    child = registry.manifest(third.version)
    assert (child.parent, child.training["warm_start"]) == (second, True)
    assert "restarted" not in child.training


def twins(items: int = 20, cold: int = 6) -> tuple[pd.DataFrame, dict[str, ItemContent]]:
    """A walk in a circle, at each place of which an item and its twin are clicked alike.

    The twins of the first places are cold: nobody clicks them. Titles say where an item belongs.
    """
    frame = pattern_log(items, users=40)
    number = frame["item_id"].str.slice(start=4).astype(int)
    twin = (np.random.default_rng(5).random(len(frame)) < 0.5) & (number >= cold)
    frame["item_id"] = frame["item_id"].where(~twin, "twin" + number.astype(str))
    names = [f"place{chr(97 + i % 26) * 3}{i}" for i in range(items)]
    contents = {
        f"{kind}{i}": ItemContent(("shop",), title=f"{names[i]} {kind}", price=float(i))
        for i in range(items)
        for kind in ("item", "twin")
    }
    return frame, contents


def check_cold_items(served: Checkpoint) -> None:
    """The twins of the places 1 to 5 have no click and are in lists; twin0 is not available."""
    assert served.training["cold_items"] == 5
    assert len(served.vocabulary) == 20 + 14 + 5
    assert "twin0" not in served.vocabulary.item_ids, "no list may hold it"
    counts = dict(zip(served.vocabulary.item_ids, served.popularity.tolist(), strict=True))
    assert {i for i, count in counts.items() if count == 0} == {f"twin{i}" for i in range(1, 6)}
    scorer = Scorer(served, CPU, top_k=4)
    for place in range(1, 6):
        (ranking,) = scorer.recommend([[f"item{(place - 2) % 20}", f"item{place - 1}"]])
        assert f"twin{place}" in {item.item_id for item in ranking.items}
        assert all(0 < item.score < 1 for item in ranking.items)
    (after_cold,) = scorer.recommend([["twin2"]])
    assert after_cold.fallback is None


def test_a_cold_item_is_in_lists_by_its_content_and_stays_there(registry: Registry) -> None:
    frame, contents = twins()
    contents["twin0"] = replace(contents["twin0"], available=False)
    outcome = run(frame, registry, contents=contents)
    assert outcome is not None
    assert outcome.version is not None, outcome.reason
    served = registry.load(outcome.version)
    assert "refit" in served.training
    check_cold_items(served)
    related = registry.related_lists(outcome.version)
    assert related is not None
    ids = served.vocabulary.item_ids
    assert "item3" in {i.item_id for i in related.similar.of(ids.index("twin3") + 1, ids, 4)}

    name, champion = current_champion(registry)
    data, limits = click_log(frame, gap_ms=0), FitLimits(1, max_epochs=1)
    again = fit_candidate(data, champion, name, RECIPE, limits, device=CPU, contents=contents)
    assert again.training["warm_start"] is True
    check_cold_items(again)


def test_a_content_encoder_can_come_and_go() -> None:
    """The champion's items keep their places, with an encoder and without."""
    frame, contents = twins()
    data, limits = click_log(frame, gap_ms=0), FitLimits(1, max_epochs=1)
    champion, before = None, None
    for known in ({}, contents, {}):
        made = fit_candidate(data, champion, "v", RECIPE, limits, device=CPU, contents=known)
        assert isinstance(made.model, BST)
        assert (made.model.config.content_buckets > 0) is bool(known)
        assert made.training["warm_start"] is (champion is not None)
        assert ("cold_items" in made.training) is bool(known)
        assert len(made.vocabulary) == 20 + 14 + (6 if known else 0)
        vectors = made.model.item_vectors()[:34]
        if before is not None:
            assert (vectors * before).sum(dim=1).mean() > 0.9
        champion, before = made, vectors


def test_the_newest_cold_items_are_learned_and_those_that_have_clicks() -> None:
    data = click_log(pattern_log(3), gap_ms=0)
    known, bowl = ItemContent(title="Bowl"), ItemContent(title="Bowl", available=False)
    contents = {
        "old": known, "item1": known, "newer": known, "empty": ItemContent(), "gone": bowl,
        "newest": known, "item2": bowl,
    }  # fmt: skip
    assert list(learnable_contents(contents, data, 2)) == ["item1", "newer", "newest", "item2"]
    assert list(learnable_contents(contents, data, 9)) == [
        "old", "item1", "newer", "newest", "item2",
    ]  # fmt: skip
    assert not learnable_contents(contents, data, 0), "models learn from clicks alone"


def test_the_source_model_learns_from_clicks_alone() -> None:
    frame, contents = twins()
    source = replace(preset("source"), shape=SourceBSTConfig(items=1, embed_dim=16, feedforward=16))
    made = fit_candidate(
        click_log(frame, gap_ms=0), None, None, source, FitLimits(1, max_epochs=1), device=CPU,
        contents=contents,
    )  # fmt: skip
    assert len(made.vocabulary) == 34
    assert "cold_items" not in made.training
