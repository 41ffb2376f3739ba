"""`nextclick evaluate LOG --stream`: predict each click before anything learns from it.

Prequential evaluation (Gama, Sebastião & Rodrigues, "On Evaluating Stream Learning Algorithms",
2013). Clicks come in their order of arrival. At each *update* the model is retrained as by the
trainer on the clicks before it: warm from the served model, bounded per user, through the gate; and
V-SkNN is fitted on the same clicks. Both then rank the clicks until the next update, each click
from those before it in its session. Nothing looks ahead.

With `Deltas` the model also learns between two updates, as the learner does, but after so many
clicks instead of each second; it is judged beside the one without.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.model import Checkpoint, Vocabulary
from nextclick.shared.model.checkpoint import WEIGHTS
from nextclick.shared.model.delta import applied
from nextclick.shared.registry import Registry
from nextclick.shared.windows import IntArray
from nextclick.trainer.compare.baselines.neighbours import VSkNN
from nextclick.trainer.data import (
    ClickLog,
    Split,
    bound_contributions,
    click_log,
    samples,
    weighted,
)
from nextclick.trainer.evaluate import evaluate, model_score
from nextclick.trainer.evaluate.metrics import Score
from nextclick.trainer.fit.presets import Preset
from nextclick.trainer.learn.learning import Base, Counting, clicks_to_read, learn_newest
from nextclick.trainer.retrain import FitLimits, Outcome, retrain

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True)
class Every:
    """The interval between updates: one of the two."""

    clicks: int = 0
    ms: int = 0
    """Of event time."""


def parse_every(text: str) -> Every:
    """Parse "20000" (clicks), "90s", "30m", "6h" or "1d". Raises ConfigurationError."""
    match = re.fullmatch(r"([1-9]\d*)([smhd]?)", text.strip())
    if match is None:
        raise ConfigurationError(
            f"--every {text}: not an interval; use clicks (20000) or event time (30m, 6h, 1d)"
        )
    number, unit = int(match[1]), match[2]
    return Every(ms=number * _UNITS_MS[unit]) if unit else Every(clicks=number)


def update_positions(timestamps: IntArray, every: Every) -> IntArray:
    """Positions of the first clicks after each update: shape [updates], ascending, above 0.

    timestamps: epoch ms in order of arrival, shape [N]. Event time is the newest so far.
    """
    if every.clicks:
        return np.arange(every.clicks, len(timestamps), every.clicks)
    clock = np.maximum.accumulate(timestamps)
    positions, last = [], 0
    while (last := int(np.searchsorted(clock, clock[last] + every.ms))) < len(clock):
        positions.append(last)
    return np.array(positions, np.int64)


class Ranker(NamedTuple):
    """Ranks the items of a vocabulary, and by popularity where a history has none of them."""

    score: Score
    vocabulary: Vocabulary
    popularity: IntArray


Update = Callable[[pd.DataFrame], Mapping[str, Ranker]]
"""All clicks before an update → rankers by name; none as long as there is no model."""


@dataclass(frozen=True)
class Deltas:
    """What is learned between two updates."""

    clicks: int
    """Between two deltas."""
    name: str
    """Of the ranker."""
    learn: Callable[[pd.DataFrame], Ranker]
    """All clicks before a delta → the served model with it."""


@dataclass(frozen=True)
class Stretch:
    """The clicks from one update to the next."""

    first: int
    """Position of the first."""
    positions: IntArray
    """Shape [M], ascending: the clicks that were predicted, which follow one of their session."""
    users: IntArray
    """Shape [M]: numbers of their users."""
    ranks: Mapping[str, IntArray]
    """By ranker, [M] each: ranks of the clicked items. Empty if there was none."""


def prequential(
    clicks: pd.DataFrame,
    gap_ms: int,
    updates: IntArray,
    update: Update,
    deltas: Deltas | None = None,
) -> Iterator[Stretch]:
    """Predict all clicks from the first update on.

    clicks: columns user_id, item_id, timestamp and perhaps weight, in order of arrival. updates: as
    from `update_positions`.
    """
    log = click_log(clicks, gap_ms, validation=0.0, test=0.0)
    order = log.order
    assert order is not None

    def ranked(first: int, end: int, ranker: Ranker) -> IntArray:
        """Ranks of the clicks in [first, end) that follow one of their session, by arrival."""
        asked = _asking(log, first, end)
        cases = samples(asked, Split.TEST, ranker.vocabulary)
        ranks = evaluate(ranker.score, ranker.popularity, cases).ranks
        return ranks[np.argsort(order[asked.cases(Split.TEST)])]

    for first, end in zip(updates, [*updates[1:], len(clicks)], strict=True):
        rankers = update(clicks.iloc[:first])
        ranks = {name: ranked(first, end, ranker) for name, ranker in rankers.items()}
        if deltas is not None and rankers:
            parts = [
                ranked(at, min(end, at + deltas.clicks), deltas.learn(clicks.iloc[:at]))
                for at in range(first, end, deltas.clicks)
            ]
            ranks[deltas.name] = np.concatenate(parts)
        cases = _asking(log, first, end).cases(Split.TEST)
        cases = cases[np.argsort(order[cases])]
        yield Stretch(int(first), order[cases], log.users[cases], ranks)


def _asking(log: ClickLog, first: int, end: int) -> ClickLog:
    """The log with the clicks of positions in [first, end) as its test."""
    assert log.order is not None
    inside = (log.order >= first) & (log.order < end)
    return replace(log, split=np.where(inside, Split.TEST, Split.TRAIN))


@dataclass
class Retraining:
    """The update of `prequential`: retrains as the trainer does, and fits V-SkNN likewise."""

    registry: Registry
    recipe: Preset
    limits: FitLimits
    gap_ms: int
    device: torch.device
    window_clicks: int
    """Newest clicks that are trained on."""
    max_per_minute: int
    """See `bound_contributions`."""
    event_weights: Mapping[str, float]
    label_weights: Mapping[str, float]
    outcomes: list[Outcome] = field(default_factory=list)
    """How each retraining ended."""
    _served: Base | None = None
    _trained_on: int = 0
    """Clicks that came before the served model was trained."""

    @property
    def name(self) -> str:
        """Of the model."""
        return f"BST {self.recipe.name}"

    def __call__(self, clicks: pd.DataFrame) -> dict[str, Ranker]:
        """Retrain on some clicks; returns the served model and V-SkNN, if a model is served."""
        newest = clicks.iloc[-self.window_clicks :].drop(columns="weight", errors="ignore")
        frame = weighted(newest.reset_index(drop=True), self.event_weights, self.label_weights)
        outcome = retrain(
            frame,
            self.registry,
            self.recipe,
            self.limits,
            gap_ms=self.gap_ms,
            device=self.device,
            max_per_minute=self.max_per_minute,
        )
        assert outcome is not None  # it is never stopped
        self.outcomes.append(outcome)
        pointer = self.registry.pointer()
        if pointer is None:
            return {}
        if outcome.version is not None or self._served is None:
            manifest = self.registry.manifest(pointer.version)
            self._served = Base(
                pointer.version,
                manifest.files[WEIGHTS],
                self.registry.load(pointer.version),
                "refit" in manifest.training,
            )
            self._trained_on = len(clicks)
        served = self._served.checkpoint
        self.registry.prune(keep_versions=1, keep_days=0)
        bounded, _ = bound_contributions(frame, self.max_per_minute)
        log = click_log(bounded, self.gap_ms, validation=0.0, test=0.0)
        vocabulary = Vocabulary([]).extended(log.ids_in(Split.TRAIN))
        neighbours = VSkNN()
        neighbours.fit(log, vocabulary, seed=0)
        of_model = self._ranker(served)
        of_neighbours = Ranker(neighbours.score, vocabulary, log.users_per_item(vocabulary))
        return {self.name: of_model, neighbours.name: of_neighbours}

    def learn(self, clicks: pd.DataFrame) -> Ranker:
        """The served model with the delta that the clicks since it was trained make of it."""
        assert self._served is not None
        base, new = self._served, len(clicks) - self._trained_on
        if new == 0:
            return self._ranker(base.checkpoint)
        newest = clicks.iloc[-clicks_to_read(new) :].drop(columns="weight", errors="ignore")
        counting = Counting(
            self.gap_ms, self.max_per_minute, self.event_weights, self.label_weights
        )
        delta = learn_newest(newest.reset_index(drop=True), base, new, 1, counting, 0)
        return self._ranker(base.checkpoint if delta is None else applied(delta, base.checkpoint))

    def _ranker(self, model: Checkpoint) -> Ranker:
        return Ranker(model_score(model, self.device), model.vocabulary, model.popularity)
