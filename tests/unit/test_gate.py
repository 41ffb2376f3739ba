from __future__ import annotations

import numpy as np

from trainer.evaluate import Evaluation
from trainer.gate import decide


def hitting(share: float, cases: int = 1000, seed: int = 0) -> Evaluation:
    """An evaluation that hits a share of the cases, at random but by rank 1 or 100."""
    order = np.random.default_rng(seed).permutation(cases)
    return Evaluation(np.where(order < share * cases, 1, 100), auc=0.5)


def test_a_first_model_that_beats_popularity_is_published() -> None:
    assert decide(hitting(0.5), None, hitting(0.3)).publish


def test_a_model_that_popularity_beats_is_refused_with_the_numbers() -> None:
    decision = decide(hitting(0.3), None, hitting(0.3))
    assert not decision.publish
    assert "0.3000" in decision.reason
    assert "popularity" in decision.reason


def test_worse_than_the_champion_beyond_noise_is_refused_with_the_numbers() -> None:
    decision = decide(hitting(0.4, seed=1), hitting(0.5, seed=2), hitting(0.3))
    assert not decision.publish
    assert "worse than the champion" in decision.reason
    assert "candidate 0.4000" in decision.reason
    assert "champion 0.5000" in decision.reason


def test_worse_within_noise_is_published() -> None:
    assert decide(hitting(0.49, seed=1), hitting(0.5, seed=2), hitting(0.3)).publish


def test_noise_is_that_of_the_paired_difference() -> None:
    """One case in a thousand worse and none better: certain, though the means hardly differ."""
    champion = hitting(0.5)
    ranks = champion.ranks.copy()
    ranks[np.flatnonzero(ranks == 1)[:10]] = 100
    assert not decide(Evaluation(ranks, 0.5), champion, hitting(0.3)).publish


def test_where_the_champion_does_not_beat_popularity_the_candidate_need_not() -> None:
    assert decide(hitting(0.25, seed=1), hitting(0.25, seed=2), hitting(0.3)).publish


def test_a_model_that_hits_nothing_is_never_published() -> None:
    assert not decide(hitting(0.0), hitting(0.0), hitting(0.0)).publish


def test_without_cases_nothing_is_published() -> None:
    assert not decide(hitting(0.5, cases=0), None, hitting(0.3, cases=0)).publish


def test_a_candidate_that_is_the_champion_again_is_refused() -> None:
    decision = decide(hitting(0.5), hitting(0.5), hitting(0.3))
    assert not decision.publish
    assert "exactly as the champion" in decision.reason
