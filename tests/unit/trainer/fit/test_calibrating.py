from __future__ import annotations

import numpy as np
import pytest
import torch

from nextclick.shared.model import Calibration
from nextclick.shared.model.calibration import UNCALIBRATED
from nextclick.shared.windows import HISTORY_LENGTH
from nextclick.trainer.data import Samples
from nextclick.trainer.fit.calibrating import calibrate, fit_calibration
from tests.unit.builders import CPU, bst


def observations(law: Calibration, cases: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """log P of items, and whether they were clicked as often as the law says."""
    rng = np.random.default_rng(seed)
    log_p = np.log(rng.beta(0.5, 2.0, cases) * 0.98 + 1e-6)
    return log_p, rng.random(cases) < law.probabilities(log_p)


@pytest.mark.parametrize(
    "law", [Calibration(a=0.9, b=0.2, c=-0.4), Calibration(a=1.3, b=0.8, c=0.2)], ids=str
)
def test_it_finds_the_law_by_which_the_clicks_came(law: Calibration) -> None:
    log_p, clicked = observations(law, 100_000)
    found = fit_calibration(log_p, clicked)
    difference = found.probabilities(log_p) - law.probabilities(log_p)
    assert np.abs(difference).max() < 0.03


def test_the_map_increases_even_where_likelier_items_are_clicked_less() -> None:
    log_p, clicked = observations(Calibration(), 20_000)
    found = fit_calibration(log_p, ~clicked)
    assert found.a > 0
    assert found.b >= 0


def test_few_clicks_change_little_and_none_break_it() -> None:
    log_p = np.log(np.array([0.3, 0.2, 0.1]))
    for clicked in (np.zeros(3, bool), np.ones(3, bool)):
        p = fit_calibration(log_p, clicked).probabilities(log_p)
        assert ((p > 0.02) & (p < 0.9)).all()


def test_scores_that_are_not_finite_are_left_to_the_gate() -> None:
    assert fit_calibration(np.array([np.nan, -1.0]), np.array([True, False])) == UNCALIBRATED


def test_without_validation_a_model_stays_as_it_is() -> None:
    nothing = Samples(np.zeros((0, HISTORY_LENGTH), np.int64), np.zeros(0, np.int64))
    assert calibrate(bst().eval(), nothing, CPU) == UNCALIBRATED


def test_a_model_without_skill_learns_not_to_be_sure() -> None:
    """Targets at random, some of unknown items: what it is sure of is clicked one time in 31."""
    torch.manual_seed(0)
    model, rng = bst().eval(), np.random.default_rng(0)
    histories = rng.integers(1, 31, (3000, HISTORY_LENGTH))
    histories[:10] = 0  # of no known item: ranked by popularity, so none of the model's
    cases = Samples(histories, rng.integers(0, 31, 3000))
    found = calibrate(model, cases, CPU)
    with torch.inference_mode():
        best = model(torch.from_numpy(histories[10:])).topk(10, dim=1).values.double().numpy()
    assert np.exp(best).mean() > 1.5 / 31
    assert found.probabilities(best).mean() == pytest.approx(1 / 31, abs=0.003)
