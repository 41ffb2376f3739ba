from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from shared.registry import Registry
from tests.unit.builders import CPU
from trainer.dataset import click_log
from trainer.presets import DEFAULT, preset
from trainer.retrain import FitLimits, Outcome, current_champion, fit_candidate, retrain

RECIPE = replace(
    DEFAULT, embed_dim=16, heads=2, layers=1, feedforward=16, tower=16, batch_size=64, epochs=12,
    learning_rate=5e-3, warm_learning_rate=2e-3, dropout=0.0, patience=12,
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
    return retrain(
        frame, registry, RECIPE, FitLimits(seed=1), gap_ms=0, device=CPU, progress=False, **options
    )  # type: ignore[arg-type]


def test_the_first_model_is_published_and_the_next_starts_from_it(registry: Registry) -> None:
    first = run(pattern_log(30), registry)
    assert first is not None
    assert first.version is not None, first.reason
    manifest = registry.manifest(first.version)
    assert manifest.parent is None
    assert manifest.training["warm_start"] is False
    assert manifest.training["clicks"] == 2400
    assert manifest.metrics["test_hr@10"] > manifest.metrics["test_popularity_hr@10"]

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
    assert "no better than the popularity list" in outcome.reason
    assert registry.pointer() is None


def test_a_stopped_retraining_changes_nothing(registry: Registry) -> None:
    assert run(pattern_log(30), registry, stopped=lambda: True) is None
    assert registry.pointer() is None


def test_another_shape_than_the_champions_starts_from_nothing(registry: Registry) -> None:
    run(pattern_log(30), registry)
    name, champion = current_champion(registry)
    data = click_log(pattern_log(30), gap_ms=0)
    for recipe, warm in ((RECIPE, True), (replace(RECIPE, tower=24), False)):
        limits = FitLimits(seed=1, max_epochs=1)
        candidate = fit_candidate(data, champion, name, recipe, limits, device=CPU, progress=False)
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
    recipe = replace(RECIPE, loss="bce", sampling="source", epochs=3)
    candidate = fit_candidate(data, None, None, recipe, FitLimits(1), device=CPU, progress=False)
    assert candidate.training["epochs"] == 3
    again = fit_candidate(data, None, None, recipe, FitLimits(1), device=CPU, progress=False)
    assert candidate.metrics == again.metrics
