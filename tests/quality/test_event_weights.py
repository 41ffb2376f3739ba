"""Weights of event types pay: the next purchase is among the recommendations more often."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nextclick.services.simulator.missions import MissionWorld
from nextclick.services.simulator.publish import click_frame
from nextclick.shared.event_types import weights_of
from nextclick.trainer.data import Split, click_log, samples, weighted
from nextclick.trainer.evaluate import evaluate_model, paired_interval
from nextclick.trainer.fit.presets import preset
from nextclick.trainer.retrain import FitLimits, fit_candidate
from tests.unit.builders import CPU


@pytest.mark.long
def test_weights_beat_all_are_clicks_on_the_next_purchase() -> None:
    world = MissionWorld()
    clicks = world.clicks(60_000, seed=1)
    frame = click_frame(clicks, 1_700_000_000_000, rate=1, seed=0)
    frame = frame.assign(event_type=world.event_types(clicks, seed=1))
    recipe, hits = replace(preset("default"), steps=700), []
    for log in (click_log(frame, 0), click_log(weighted(frame, weights_of()), 0)):
        model = fit_candidate(log, None, None, recipe, FitLimits(seed=1), device=CPU)
        cases = samples(log, Split.TEST, model.vocabulary)
        bought = log.types_of_cases(Split.TEST) == "purchase"
        hits.append(evaluate_model(model, cases, CPU).hits(10)[bought])
    assert cases.users is not None
    low, high = paired_interval(hits[1] - hits[0], cases.users[bought])
    print(
        f"HR@10 of the next purchase, {bought.sum()} cases: all are clicks {np.mean(hits[0]):.4f}, "
        f"weights {np.mean(hits[1]):.4f}, difference {low:+.4f} to {high:+.4f}"
    )
    assert low > 0
