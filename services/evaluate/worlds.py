"""The simulated worlds as benchmarks, each with the best possible method as its ceiling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from nextclick.services.simulator.missions import MissionWorld
from nextclick.services.simulator.publish import click_frame
from nextclick.services.simulator.variants import VariantsWorld
from nextclick.services.simulator.world import World
from nextclick.shared.model import Vocabulary
from nextclick.shared.windows import IntArray
from nextclick.trainer.compare.benchmark import Benchmark, Oracle
from nextclick.trainer.data import Samples, click_log, weighted
from nextclick.trainer.evaluate import FloatArray

INTERACTIONS = 200_000
"""Interactions of the source world; every fifth is a click."""
CLICKS = 200_000
"""Clicks of the missions world."""
_GAP_MS = 30 * 60 * 1000
_LAST_CLICK = 1_700_000_000_000
_SEED = 1


def source() -> Benchmark:
    """The source's log, whose clicks are independent of their order; each user is one session."""
    world = World()
    frame = click_frame(world.source_clicks(INTERACTIONS), _LAST_CLICK, rate=200, seed=0)
    return Benchmark(
        "source",
        click_log(frame, gap_ms=0),
        oracle=oracle(world.item_ids, world.next_click_given_history),
    )


def missions(gap_ms: int, clicks: int = CLICKS) -> Benchmark:
    """The missions world at one click per second; pauses between sessions exceed half an hour.

    gap_ms: with 0, histories continue from one mission into the next, as in the demo's traffic.
    """
    world = MissionWorld()
    frame = click_frame(world.clicks(clicks, _SEED), _LAST_CLICK, rate=1, seed=0)
    click_probabilities = partial(world.next_click_given_history, rollover=0.0 if gap_ms else 1.0)
    return Benchmark(
        "missions" if gap_ms else "missions-nogap",
        click_log(frame, gap_ms),
        oracle=oracle(world.item_ids, click_probabilities),
    )


def purchases() -> Benchmark:
    """The missions world with views, carts and purchases, which count by their default weights."""
    world = MissionWorld()
    clicks = world.clicks(CLICKS, _SEED)
    frame = click_frame(clicks, _LAST_CLICK, rate=1, seed=0)
    frame = weighted(frame.assign(event_type=world.event_types(clicks, _SEED)))
    return Benchmark("missions-purchases", click_log(frame, _GAP_MS))


def variants(seed: int = 42, clicks: int = CLICKS) -> Benchmark:
    """The variants world, in which items are new: the newest tenth of all clicks is the test.

    The tenth before is the validation. What the shop says of its items is known before the test.
    """
    world = VariantsWorld(seed)
    frame = click_frame(world.clicks(clicks, _SEED), _LAST_CLICK, rate=1, seed=0)
    log = click_log(frame, _GAP_MS)
    assert log.order is not None
    split = np.digitize(log.order, [0.8 * clicks, 0.9 * clicks])  # TRAIN, VALIDATION, TEST
    return Benchmark("variants", replace(log, split=split), contents=world.contents)


WORLDS: dict[str, Callable[[], Benchmark]] = {
    "source": source,
    "missions": partial(missions, gap_ms=_GAP_MS),
    "missions-nogap": partial(missions, gap_ms=0),
    "missions-purchases": purchases,
    "variants": variants,
}
"""Name on the command line → benchmark. Add new worlds here."""


def oracle(item_ids: list[str], click_probabilities: Callable[[IntArray], FloatArray]) -> Oracle:
    """The best possible method of a world: scores by its true click probabilities.

    click_probabilities: histories [B, L], rows of `item_ids` → P(next click) [B, len(item_ids)].
    """
    of_world = Vocabulary(item_ids)

    def scores(cases: Samples, vocabulary: Vocabulary) -> FloatArray:
        rows = of_world.rows(vocabulary.item_ids)
        histories = np.concatenate([[0], rows])[cases.histories]
        # Probabilities can be 0; the lower bound keeps the logarithm finite.
        return np.log(np.maximum(click_probabilities(histories)[:, rows - 1], 1e-300))

    return scores
