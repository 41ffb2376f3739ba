"""The benches that start processes, at a small size: that they run, answer and clean up."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import latency, scale, worker
from tests.unit.builders import CPU


def test_latency_is_measured_across_a_retrain_and_a_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(latency, "WARM_UP_SECONDS", 1.0)
    monkeypatch.setattr(latency, "_IDLE_SECONDS", 0.5)
    row = latency.measure(rate=50, items=40, seconds=4, swap=True)
    assert row.clicks == 200
    assert row.swaps >= 1
    assert not row.idle_cpu > 1.5
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


def test_growth_is_measured_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(scale, "_ITEMS", 40)
    few, more = scale.measure_users(300), scale.measure_users(300, clicks_per_user=20)
    assert 100 < few.bytes_per_session < more.bytes_per_session < 2000
    assert few.appends_per_second > 0
    two = scale.measure_workers(2, clicks=2000)
    assert two.clicks_per_second > 0
    assert list(tmp_path.iterdir()) == []
    scale.plot([few], [two], tmp_path / "scale.png")
    assert (tmp_path / "scale.png").stat().st_size > 1000
