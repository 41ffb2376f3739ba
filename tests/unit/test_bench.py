from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.cli import sizes, write
from bench.scorer import measure, served
from bench.timing import Timing, in_turns
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
    _, small = served(50, CPU)
    _, large = served(20_000, CPU)
    assert small.config.members == 1
    assert large.config.members == 2
    assert len(large.catalogue()) == 20_000
