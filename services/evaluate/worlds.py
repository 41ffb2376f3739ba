"""The simulated worlds as data sets to compare methods on, each with its ceiling.

Composes simulator and trainer, as only `cli` and `demo` do beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from nextclick.services.simulator.missions import MissionWorld
from nextclick.services.simulator.publish import click_frame
from nextclick.services.simulator.world import World
from nextclick.shared.model import Vocabulary
from nextclick.shared.windows import IntArray
from nextclick.trainer.compare.benchmark import Benchmark, Oracle
from nextclick.trainer.data import Samples, click_log
from nextclick.trainer.evaluate import FloatArray

INTERACTIONS = 200_000
"""Of the source's world; every fifth becomes a click."""
CLICKS = 200_000
"""Of the world of missions."""
_LAST_CLICK = 1_700_000_000_000
_SEED = 1


def source() -> Benchmark:
    """The source's own log, of clicks without any order, split by time; sessions never end."""
    world = World()
    frame = click_frame(world.source_clicks(INTERACTIONS), _LAST_CLICK, rate=200, seed=0)
    return Benchmark(
        "source",
        click_log(frame, gap_ms=0),
        oracle=oracle(world.item_ids, world.next_click_given_history),
    )


def missions(gap_ms: int, clicks: int = CLICKS) -> Benchmark:
    """Shoppers on missions, a click a second. Every pause between sessions is over half an hour.

    gap_ms: 0 lets histories run on from one mission into the next, as in the demo's fast traffic.
    """
    world = MissionWorld()
    frame = click_frame(world.clicks(clicks, _SEED), _LAST_CLICK, rate=1, seed=0)
    law = partial(world.next_click_given_history, rollover=0.0 if gap_ms else 1.0)
    return Benchmark(
        "missions" if gap_ms else "missions-nogap",
        click_log(frame, gap_ms),
        oracle=oracle(world.item_ids, law),
    )


WORLDS: dict[str, Callable[[], Benchmark]] = {
    "source": source,
    "missions": partial(missions, gap_ms=30 * 60 * 1000),
    "missions-nogap": partial(missions, gap_ms=0),
}
"""Every world that `nextclick evaluate` knows by name: a new one is entered here."""


def oracle(item_ids: list[str], law: Callable[[IntArray], FloatArray]) -> Oracle:
    """Turn a world's law into an oracle.

    law: histories [B, L] as rows of `item_ids` → P(next click), shape [B, len(item_ids)].
    """
    of_world = Vocabulary(item_ids)

    def scores(cases: Samples, vocabulary: Vocabulary) -> FloatArray:
        rows = of_world.rows(vocabulary.item_ids)
        histories = np.concatenate([[0], rows])[cases.histories]
        # A law may rule an item out; a logarithm that small stands for it.
        return np.log(np.maximum(law(histories)[:, rows - 1], 1e-300))

    return scores
