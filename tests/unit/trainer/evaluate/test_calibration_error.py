"""How far probabilities are from what happens."""

from __future__ import annotations

import numpy as np
import pytest

from nextclick.trainer.evaluate.calibration_error import expected_calibration_error, noise


def test_it_is_the_mean_distance_over_bins_of_as_many_cases() -> None:
    probabilities = np.repeat(np.arange(15) / 20, 10)  # 15 bins of ten
    hits = np.zeros(150)
    assert expected_calibration_error(probabilities, hits) == pytest.approx(0.35)
    hits[:10] = 1.0  # the first bin: 0 claimed, all right
    mixed = np.random.default_rng(0).permutation(150)
    found = expected_calibration_error(probabilities[mixed], hits[mixed])
    assert found == pytest.approx(0.35 + 1 / 15)
    assert expected_calibration_error(np.array([0.3]), np.array([1.0])) == pytest.approx(0.7)
    assert expected_calibration_error(np.full(15, 0.5), np.full(15, 0.5)) == 0.0


@pytest.mark.parametrize("cases", [100, 1_000, 20_000])
def test_a_perfect_model_stays_below_the_noise_and_a_wrong_one_does_not(cases: int) -> None:
    rng = np.random.default_rng(1)
    p = rng.random(cases)
    below = [
        expected_calibration_error(p, (rng.random(cases) < p).astype(float)) <= noise(p)
        for _ in range(40)
    ]
    assert np.mean(below) > 0.85
    wrong = (rng.random(cases) < p * 0.7).astype(float)
    assert expected_calibration_error(p, wrong) > noise(p)


def test_noise_shrinks_with_the_root_of_the_cases() -> None:
    p = np.random.default_rng(2).random(40_000)
    assert noise(p[:400]) / noise(p) == pytest.approx(10, rel=0.2)
