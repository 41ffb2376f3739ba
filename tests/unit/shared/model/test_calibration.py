from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from nextclick.shared.model import Calibration, Scorer
from nextclick.shared.model.constraints import Constraints
from nextclick.shared.model.explain import explain
from tests.unit.builders import CPU, checkpoint

BENT = Calibration(a=0.7, b=0.3, c=-0.5)
HISTORIES = [["1", "2", "3"], ["7"], ["4", "4", "9", "12"]]


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_it_is_beta_calibration() -> None:
    for p in (1e-6, 0.01, 0.3, 0.99):
        (got,) = BENT.probabilities(np.log([p]))
        assert logit(got) == pytest.approx(0.7 * math.log(p) - 0.3 * math.log(1 - p) - 0.5)


def test_without_parameters_nothing_changes_bit_for_bit() -> None:
    log_p = np.log(np.random.default_rng(0).random(1000))
    assert np.array_equal(Calibration().probabilities(log_p), np.exp(log_p))


@pytest.mark.parametrize(
    "calibration", [BENT, Calibration(a=0.05, b=0, c=-3), Calibration(a=2, b=1.5, c=1)], ids=str
)
def test_it_keeps_the_order_and_stays_a_probability(calibration: Calibration) -> None:
    log_p = np.concatenate([np.linspace(-300, -31, 500), np.linspace(-30, -1e-4, 5000)])
    p = calibration.probabilities(log_p)
    assert (np.diff(p) >= 0).all()
    assert (np.diff(p[log_p < -0.1]) > 0).all()
    assert ((p > 0) & (p < 1)).all()


def test_what_is_no_probability_stays_so() -> None:
    never, always, broken = BENT.probabilities(np.array([-np.inf, 0.0, np.nan]))
    assert never == 0
    assert 0.9 < always < 1
    assert math.isnan(broken)


@pytest.mark.parametrize("wrong", [{"a": 0.0}, {"a": -1.0}, {"b": -0.1}, {"c": math.nan}])
def test_a_map_that_could_change_the_order_is_none(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Calibration(**wrong)


def test_lists_keep_their_items_and_show_calibrated_scores() -> None:
    plain = Scorer(checkpoint(), CPU, 10)
    bent = Scorer(replace(checkpoint(), calibration=BENT), CPU, 10)
    for rules in (None, [Constraints(20, without_history=True)] * 3):
        lists = zip(
            plain.recommend(HISTORIES, rules), bent.recommend(HISTORIES, rules), strict=True
        )
        for before, after in lists:
            assert [i.item_id for i in before.items] == [i.item_id for i in after.items]
            expected = BENT.probabilities(np.log([item.score for item in before.items]))
            assert [i.score for i in after.items] == pytest.approx(expected.tolist(), rel=1e-5)


def test_popular_items_keep_their_shares() -> None:
    bent = Scorer(replace(checkpoint(), calibration=BENT), CPU, 10)
    assert bent.recommend([[], ["?"]]) == Scorer(checkpoint(), CPU, 10).recommend([[], ["?"]])


def test_an_explanation_speaks_of_the_calibrated_probability() -> None:
    scorer = Scorer(replace(checkpoint(), calibration=BENT), CPU, 5)
    explanation = explain(scorer, ["3", "9"])
    (whole,) = scorer.recommend([["3", "9"]])
    (without,) = scorer.recommend([["9"]], [Constraints(30)])
    assert explanation.items == whole.items
    before = {item.item_id: item.score for item in without.items}
    for item, (contribution, _) in zip(whole.items, explanation.contributions, strict=True):
        assert contribution == pytest.approx(math.log(item.score / before[item.item_id]), abs=1e-4)
