"""What docs/ab-tests.md promises of experiments, in more of them and with more looks.

tests/unit/services/experiments/test_statistics.py has the same in a moment.
"""

from __future__ import annotations

import numpy as np
import pytest

from nextclick.services.experiments.statistics import ALPHA
from tests.unit.services.experiments.simulated import LISTS_PER_USER, simulate

pytestmark = pytest.mark.long


@pytest.mark.parametrize("share", [0.5, 0.2, 0.05])
def test_equal_models(share: float) -> None:
    """2,000 experiments with 200 looks each, and any share."""
    found = np.concatenate(
        [simulate(200, 3_000, share, 0.0, looks=200, seed=i).found for i in range(10)]
    )
    assert found.mean() <= ALPHA


@pytest.mark.parametrize(
    ("share", "lift", "judged"), [(0.5, 0.02, 75_000), (0.2, 0.02, 120_000), (0.5, 0.01, 400_000)]
)
def test_what_the_documentation_promises(share: float, lift: float, judged: int) -> None:
    better = simulate(200, judged // LISTS_PER_USER, share, lift, looks=100, seed=3)
    assert better.found.mean() >= 0.8
    assert better.missed.mean() <= ALPHA
