"""Bots change neither what counts teach nor the gate's verdict; test_poisoning.py of the
integration tests has the same for fitted models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import pytest

from nextclick.shared.model import Vocabulary
from nextclick.trainer.compare.baselines.counting import Markov
from nextclick.trainer.data import ClickLog, Split, bound_contributions, click_log, samples
from nextclick.trainer.evaluate import Evaluation, evaluate, gate
from tests.poisoning import ATTACKS, BAIT, BOTS, END_MS, RATE, forty_bots, honest

CLICKS, UNSEEN, PER_MINUTE = 60_000, 10_000, 60
Attack = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture(scope="module")
def clean() -> pd.DataFrame:
    return honest(CLICKS)


@pytest.fixture(scope="module")
def unseen() -> ClickLog:
    """Honest clicks after those of the log, all of them the test."""
    return click_log(honest(UNSEEN, 2, END_MS + 1000 * UNSEEN // RATE), 0, 0.0, 1.0)


def bounded(frame: pd.DataFrame) -> ClickLog:
    return click_log(bound_contributions(frame, PER_MINUTE)[0], gap_ms=0)


def counted_hit_rate(log: ClickLog, unseen: ClickLog) -> float:
    """HR@1 by the counts of what followed each item, which no chance disturbs."""
    vocabulary = Vocabulary([]).extended(log.ids_in(Split.TRAIN))
    markov = Markov("Markov", steps=1)
    markov.fit(log, vocabulary, seed=0)
    cases = samples(unseen, Split.TEST, vocabulary)
    return float(evaluate(markov.score, log.counts(vocabulary), cases).hits(1).mean())


BUSY_BOTS = partial(forty_bots, per_second=5.0)


@pytest.mark.parametrize(
    "attack", [*ATTACKS.values(), BUSY_BOTS], ids=[*ATTACKS, "forty busy bots"]
)
def test_counts_of_poisoned_logs_are_those_of_the_clean_one(
    attack: Attack, clean: pd.DataFrame, unseen: ClickLog
) -> None:
    before = counted_hit_rate(bounded(clean), unseen)
    poisoned = bounded(attack(clean))
    assert abs(counted_hit_rate(poisoned, unseen) - before) < 0.01
    by_users = np.argsort(-poisoned.users_per_item(Vocabulary(poisoned.item_ids)))
    assert BAIT not in [poisoned.item_ids[row] for row in by_users[:10]]


@pytest.mark.parametrize("crowd", [lambda frame: frame, forty_bots, BUSY_BOTS])
@pytest.mark.parametrize(("rate", "refusal"), [(0.62, ""), (0.55, "worse")])
def test_the_gate_decides_as_without_bots(
    crowd: Attack, rate: float, refusal: str, clean: pd.DataFrame
) -> None:
    """The candidate learned the bots' item, the champion is of a time before them."""
    log = bounded(crowd(clean))
    cases = log.cases(Split.TEST)
    users = log.user_ids[log.users[cases]].astype(str)
    bot = np.char.startswith(users, "bot")
    bait = np.array(log.item_ids, object)[log.items[cases]] == BAIT
    rng = np.random.default_rng(0)

    def hitting(of_honest: float, of_bait: float) -> Evaluation:
        chance = np.where(bot, np.where(bait, of_bait, 0.2), of_honest)
        return Evaluation(np.where(rng.random(len(cases)) < chance, 1, 100), auc=0.5)

    decision = gate.decide(
        hitting(rate, 1.0),
        hitting(0.6, 0.0),
        {gate.POPULARITY: hitting(0.4, 0.0)},
        log.users[cases],
    )
    assert decision.refusal == refusal, decision.reason
    assert bot.sum() in (0, *range(BOTS, 20 * BOTS))
