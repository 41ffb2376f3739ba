"""How well cold items are recommended: from a world to the picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nextclick.bench.cold_items import WITH, WITHOUT, measure, plot, show, together
from nextclick.services.evaluate.worlds import variants
from nextclick.shared.model import BSTConfig
from nextclick.trainer.fit.presets import PRESETS

RECIPE = replace(
    PRESETS["default"],
    shape=BSTConfig(items=1, embed_dim=32, heads=2, layers=1, feedforward=32),
    epochs=4,
    steps=0,
)


@pytest.mark.long
def test_content_finds_cold_items_and_costs_nothing_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranked = measure(variants(seed=1, clicks=30_000), RECIPE, seed=0, max_seconds=float("inf"))
    cold, cases = ranked.mean(WITH, "hr@20", 0, 0)
    assert cases > 100
    assert ranked.mean(WITHOUT, "hr@20", 0, 0)[0] == 0.0, "no list can hold them"
    floor = ranked.mean("category popularity", "hr@20", 0, 0)[0]
    assert cold > 0.1 > floor
    gain, low, high = ranked.gain("hr@20")
    assert low < gain < high
    assert gain > -0.02
    both = together([ranked, ranked])
    assert both.mean(WITH, "hr@20", 0, 0) == (cold, 2 * cases)
    show(both)
    assert f"{2 * cases}" in capsys.readouterr().out
    plot(both, tmp_path / "cold.png")
    assert (tmp_path / "cold.png").read_bytes().startswith(b"\x89PNG")
