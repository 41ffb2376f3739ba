"""The default preset learns the source's world: judged by oracles computed beside it."""

from __future__ import annotations

import pytest

from bench.source_world import CPU, fit_model, oracles, source_log
from services.simulator.world import World
from trainer.dataset import Split, samples
from trainer.evaluate import evaluate_model


@pytest.mark.slow
def test_the_model_comes_close_to_the_best_possible() -> None:
    world = World()
    log = source_log(world)
    model = fit_model(log, "default", seed=42)
    cases = samples(log, Split.TEST, model.vocabulary)
    got = evaluate_model(model, cases, CPU).metrics()
    other = {name: e.metrics() for name, e in oracles(world, log, model.vocabulary).items()}
    ceiling = other["ceiling: Bayes from the last 10"]

    assert got["hr@10"] >= 0.445
    assert got["auc"] >= 0.725
    assert got["hr@10"] >= 0.96 * ceiling["hr@10"]
    assert got["hr@10"] > other["popularity"]["hr@10"] + 0.15
    assert got["auc"] > other["category counts of the last 10"]["auc"]
    # Nothing that sees the last ten clicks can beat their Bayes inference by more than luck.
    assert got["hr@10"] < ceiling["hr@10"] + 0.01
    assert ceiling["hr@10"] <= other["persona known"]["hr@10"] + 0.01
