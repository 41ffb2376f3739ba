"""The simulated worlds as data sets to compare methods on, each with its ceiling.

Composes simulator and trainer, as only `cli`, `demo` and `evaluation` do beside it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from services.simulator.publish import click_frame
from services.simulator.world import World
from shared.checkpoint import Vocabulary
from shared.windows import IntArray
from trainer.benchmark import Benchmark, Oracle
from trainer.dataset import Samples, click_log
from trainer.evaluate import FloatArray

INTERACTIONS = 200_000
_LAST_CLICK = 1_700_000_000_000
_RATE = 200


def source() -> Benchmark:
    """The source's own log, of clicks without any order, split by time; sessions never end."""
    world = World()
    frame = click_frame(world.source_clicks(INTERACTIONS), _LAST_CLICK, _RATE, seed=0)
    item_ids = [str(product) for product in range(1, world.products + 1)]
    return Benchmark(
        "source",
        click_log(frame, gap_ms=0),
        oracle=_oracle(item_ids, world.next_click_given_history),
    )


WORLDS: dict[str, Callable[[], Benchmark]] = {"source": source}
"""Every world that `nextclick evaluate` knows by name: a new one is entered here."""


def _oracle(item_ids: list[str], law: Callable[[IntArray], FloatArray]) -> Oracle:
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
