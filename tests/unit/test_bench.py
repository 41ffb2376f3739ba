from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import train
from bench.models import random_checkpoint
from bench.options import sizes, write
from bench.scorer import measure
from bench.timing import Timing, in_turns
from bench.traffic import traffic
from shared.bst import BST
from shared.errors import ConfigurationError
from tests.unit.builders import CPU


def test_contestants_take_turns() -> None:
    calls: list[str] = []
    times = in_turns(
        {"one": lambda: calls.append("one"), "other": lambda: calls.append("other")},
        CPU,
        rounds=3,
        least_seconds=0.0,
    )
    assert calls == ["one", "other"] * 4  # the first turn warms up
    assert [len(timing.rounds) for timing in times.values()] == [3, 3]


def test_a_ratio_is_taken_within_each_round() -> None:
    """A machine that halves its speed in one round changes no ratio."""
    assert Timing([1.0, 2.0, 1.0]).ratio(Timing([3.0, 6.0, 3.0])) == 3.0
    assert Timing([1.0, 5.0, 2.0]).median == 2.0


def test_sizes_are_read_with_their_suffix() -> None:
    assert sizes("--catalogue", "50, 10k,1M") == [50, 10_000, 1_000_000]
    for wrong in ("", "x", "1.5k", "0", "10,", "-3"):
        with pytest.raises(ConfigurationError, match="--catalogue"):
            sizes("--catalogue", wrong)


def test_the_scorer_is_measured_against_the_slow_ways_and_the_limit(tmp_path: Path) -> None:
    row = measure(300, 4, CPU, rounds=1)
    assert row.clicks_per_second == pytest.approx(4000 / row.served_ms)
    assert 0 < row.encode_limit_ms < row.encode_ms
    assert row.encode_limit_ms < row.limit_ms < row.served_ms
    assert row.per_candidate_ratio > 10
    write(tmp_path / "out.json", [row], CPU)
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["rows"][0]["items"] == 300
    assert document["environment"]["device"] == "cpu"


def test_the_measured_model_has_the_shape_that_the_default_preset_serves() -> None:
    small, large = random_checkpoint(50), random_checkpoint(20_000)
    assert isinstance(small.model, BST)
    assert isinstance(large.model, BST)
    assert small.model.config.dropout < large.model.config.dropout
    assert len(large.model.catalogue()) == len(large.vocabulary) == 20_000


def test_the_load_clicks_items_that_the_model_knows() -> None:
    clicks = next(traffic(items=30, users=4, seed=0))
    known = set(random_checkpoint(30).vocabulary.item_ids)
    assert set(clicks.items) == known
    assert set(clicks.users.tolist()) == {0, 1, 2, 3}


def test_a_champion_is_ahead_of_nothing_and_reading_is_measured_too() -> None:
    read, cold, warm = train.measure(2_000, 5_000, epochs=2)
    assert read.clicks == 5_000
    assert read.per_second == pytest.approx(5_000 / read.seconds)
    assert cold.epochs == warm.epochs == 2
    assert warm.ndcg > cold.ndcg
    assert 0 <= warm.seconds_to_quality <= warm.seconds
    assert cold.per_second > 0
