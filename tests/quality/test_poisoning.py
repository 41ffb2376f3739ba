"""Bots beside honest shoppers change neither what models learn nor the gate's verdict.

tests/unit/trainer/test_poisoning.py has the same for counts, in a moment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest

from nextclick.shared.model import BST, BSTConfig, Checkpoint
from nextclick.trainer.data import Split, bound_contributions, click_log, samples
from nextclick.trainer.evaluate import evaluate_model
from nextclick.trainer.fit.presets import Preset, preset
from nextclick.trainer.retrain import FitLimits, fit_candidate, judge
from tests.poisoning import ATTACKS, END_MS, RATE, forty_bots, honest
from tests.unit.builders import CPU

pytestmark = pytest.mark.long

PER_MINUTE = 60
DEFAULT = preset("default")
QUICK = replace(
    DEFAULT, shape=BSTConfig(items=1, embed_dim=32, heads=2, layers=1, feedforward=32), steps=150
)
UNSEEN = 10_000


def fitted(frame: pd.DataFrame, recipe: Preset) -> Checkpoint:
    """A model from scratch, as by the trainer."""
    log = click_log(bound_contributions(frame, PER_MINUTE)[0], gap_ms=0)
    return fit_candidate(log, None, None, recipe, FitLimits(seed=1), device=CPU)


def clean_hit_rate(checkpoint: Checkpoint) -> float:
    """HR@1 on honest clicks that come after those of the log."""
    unseen = honest(UNSEEN, seed=2, end_ms=END_MS + 1000 * UNSEEN // RATE)
    cases = samples(click_log(unseen, 0, 0.0, 1.0), Split.TEST, checkpoint.vocabulary)
    return float(evaluate_model(checkpoint, cases, CPU).hits(1).mean())


def test_poisoned_logs_teach_what_the_clean_one_teaches() -> None:
    """With 700 steps only, two seeds differ by up to 0.007 beside the bots."""
    log = honest(60_000)
    clean = clean_hit_rate(fitted(log, DEFAULT))
    moved = {
        name: clean_hit_rate(fitted(attack(log), DEFAULT)) - clean
        for name, attack in ATTACKS.items()
    }
    print(f"clean HR@1 {clean:.4f}, moved by", {n: f"{m:+.4f}" for n, m in moved.items()})
    assert max(map(abs, moved.values())) < 0.01, (clean, moved)


def turned(checkpoint: Checkpoint, items: slice) -> Checkpoint:
    """The model with the vectors of some items negated."""
    model = BST(checkpoint.model.config)
    model.load_state_dict(checkpoint.model.state_dict())
    model.network.item_embedding.weight.data[items].neg_()
    return replace(checkpoint, model=model.eval())


def bare(frame: pd.DataFrame) -> pd.DataFrame:
    return frame


@pytest.mark.parametrize("crowd", [bare, forty_bots], ids=["alone", "beside bots"])
def test_the_gate_decides_as_without_bots(
    crowd: Callable[[pd.DataFrame], pd.DataFrame],
) -> None:
    """The champion is of a time before the bots. A worse candidate knows their item, as it does."""
    champion = fitted(honest(10_000, seed=3), QUICK)
    log = crowd(honest(20_000))
    data = click_log(bound_contributions(log, PER_MINUTE)[0], gap_ms=0)
    good = fitted(log, QUICK)
    decision = judge(data, good, champion, CPU)[0]
    assert decision.publish, decision.reason
    decision = judge(data, turned(good, slice(1, 4)), good, CPU)[0]
    assert decision.refusal == "worse", decision.reason
