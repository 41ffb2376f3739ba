"""Turns logged clicks into sessions, splits and samples."""

from nextclick.trainer.data.contributions import LeftOut, bound_contributions
from nextclick.trainer.data.dataset import (
    ClickLog,
    Samples,
    Split,
    click_log,
    random_split,
    sample_negatives,
    samples,
    source_samples,
    weighted,
)
from nextclick.trainer.data.sessions import Sessions, sessions_of

__all__ = [
    "ClickLog",
    "LeftOut",
    "Samples",
    "Sessions",
    "Split",
    "bound_contributions",
    "click_log",
    "random_split",
    "sample_negatives",
    "samples",
    "sessions_of",
    "source_samples",
    "weighted",
]
