"""Turns logged clicks into sessions, splits and samples."""

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
    "Samples",
    "Sessions",
    "Split",
    "click_log",
    "random_split",
    "sample_negatives",
    "samples",
    "sessions_of",
    "source_samples",
    "weighted",
]
