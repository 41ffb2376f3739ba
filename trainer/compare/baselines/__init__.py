"""The baselines: the strongest simple methods, and the classic neural ones.

Each is a `Method` (../method.py). `counting` and `neighbours` take seconds to fit, and use training
and validation clicks alike; `profile` and `neural` use the validation for early stopping.
"""

from __future__ import annotations

from collections.abc import Callable

from nextclick.trainer.compare.baselines.counting import (
    ItemKNN,
    Markov,
    Popularity,
    SessionPopularity,
)
from nextclick.trainer.compare.baselines.neighbours import VSkNN
from nextclick.trainer.compare.baselines.neural import GRU4Rec, SASRec, SequenceModel
from nextclick.trainer.compare.baselines.profile import LinUCB, UserItemMLP
from nextclick.trainer.compare.method import Method


def _registry(*factories: Callable[[], Method]) -> dict[str, Callable[[], Method]]:
    return {factory().name: factory for factory in factories}


BASELINES: dict[str, Callable[[], Method]] = _registry(
    Popularity,
    SessionPopularity,
    ItemKNN,
    lambda: Markov("Markov-1", steps=1),
    lambda: Markov("Markov mix", steps=10, reach=10, backward=0.5),
    VSkNN,
    UserItemMLP,
    LinUCB,
    lambda: SequenceModel("GRU4Rec", GRU4Rec),
    lambda: SequenceModel("SASRec", SASRec),
)
"""Name in reports → a factory of the unfitted method with its default settings."""
