"""Reliability diagrams: from a data set to the picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from nextclick.bench.calibration import measure, plot, show
from nextclick.shared.model import BSTConfig
from nextclick.trainer.compare.benchmark import Benchmark
from nextclick.trainer.compare.bst_method import BSTMethod
from nextclick.trainer.data import click_log
from nextclick.trainer.fit.presets import PRESETS
from tests.unit.builders import CPU


def test_a_fit_is_drawn_before_and_after_its_calibration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(f"u{u}", f"i{(u + t) % 12}", t) for u in range(30) for t in range(20)]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    benchmark = Benchmark("ring", click_log(frame, 0))
    recipe = replace(
        PRESETS["default"],
        shape=BSTConfig(items=1, embed_dim=16, heads=2, layers=1, feedforward=16),
        batch_size=32,
        epochs=1,
        steps=0,
    )
    diagram = measure(benchmark, BSTMethod(recipe, CPU), seed=0)
    for curve in (diagram.before, diagram.after):
        assert sum(b.cases for b in curve.bins) == len(benchmark.cases)
        apart = [b.cases * abs(b.mean_probability - b.hit_rate) for b in curve.bins]
        assert curve.error == pytest.approx(sum(apart) / len(benchmark.cases))
    assert diagram.before.error != diagram.after.error
    show(diagram)
    assert f"after calibration: ECE {100 * diagram.after.error:.2f} %" in capsys.readouterr().out
    plot([diagram, diagram], tmp_path / "calibration.png")
    assert (tmp_path / "calibration.png").read_bytes().startswith(b"\x89PNG")
