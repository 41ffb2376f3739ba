"""The benches that start processes, at a small size: that they run, answer and clean up."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import latency, worker
from tests.unit.builders import CPU


def test_latency_is_measured_across_a_retrain_and_a_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(latency, "WARM_UP_SECONDS", 1.0)
    row = latency.measure(rate=50, items=40, seconds=4, swap=True)
    assert row.clicks == 200
    assert row.swaps >= 1
    assert 0 < row.p50_ms <= row.p90_ms <= row.p99_ms <= row.max_ms
    assert list(tmp_path.iterdir()) == []


def test_a_worker_is_measured_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    row = worker.measure(items=40, clicks=2000, rounds=1, device=CPU)
    assert set(row.stage_us) == set(worker.STAGES)
    assert min(row.stage_us.values()) > 0
    assert row.clicks_per_second > 0
    assert sum(row.stage_us.values()) < 1.5e6 / row.clicks_per_second
    assert 0 < row.of_possible < 2
    assert list(tmp_path.iterdir()) == []
