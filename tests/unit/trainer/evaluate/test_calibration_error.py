"""How far probabilities are from what happens."""

from __future__ import annotations

import numpy as np
import pytest

from nextclick.trainer.evaluate.calibration_error import (
    expected_calibration_error,
    noise,
    reliability,
)


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


def test_the_bins_of_a_reliability_diagram_are_those_of_the_error() -> None:
    rng = np.random.default_rng(3)
    probabilities, hits = rng.random(1_000), (rng.random(1_000) < 0.4).astype(float)
    bins = reliability(probabilities, hits)
    assert [b.cases for b in bins] == [67] * 10 + [66] * 5
    assert [b.mean_probability for b in bins] == sorted(b.mean_probability for b in bins)
    error = sum(b.cases * abs(b.mean_probability - b.hit_rate) for b in bins) / 1_000
    assert error == pytest.approx(expected_calibration_error(probabilities, hits))
    assert all(0 <= b.low < b.hit_rate < b.high <= 1 for b in bins)


def test_the_interval_of_a_hit_rate_is_wilsons() -> None:
    """Against the figures of R's prop.test(8, 10, correct = FALSE), and with no hit at all."""
    eight_of_ten = np.repeat([1.0, 0.0], [8 * 15, 2 * 15])
    bins = reliability(np.repeat(np.arange(15) / 15, 10), eight_of_ten.reshape(10, 15).T.ravel())
    assert {(round(b.low, 4), round(b.high, 4)) for b in bins} == {(0.4902, 0.9433)}
    (nothing,) = reliability(np.array([0.5]), np.array([0.0]))
    assert nothing.low == pytest.approx(0.0, abs=1e-12)
    assert nothing.high == pytest.approx(3.8415 / 4.8415, abs=1e-4)


def test_noise_shrinks_with_the_root_of_the_cases() -> None:
    p = np.random.default_rng(2).random(40_000)
    assert noise(p[:400]) / noise(p) == pytest.approx(10, rel=0.2)
