"""Logged clicks → sessions, windows and a temporal split. Pure.

Training, evaluation and serving cut windows with the same code, `nextclick.shared.windows`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import pandas as pd

from nextclick.shared.event_types import (
    label_weights_of,
    normalised,
    weight_of,
    weights_of,
)
from nextclick.shared.model import Vocabulary
from nextclick.shared.windows import PADDING, IntArray, session_starts, windows

Weights = npt.NDArray[np.float32]


class Split(IntEnum):
    """The split that a click belongs to; each user's newest clicks are the test."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


INVALID_ITEM = ""
"""Stands for an invalid item id. No vocabulary holds it, so as a target it is always a miss."""


@dataclass(frozen=True)
class ClickLog:
    """Clicks grouped by user, each user's in stream order; arrays of shape [N]."""

    users: IntArray
    """Index into user_ids."""
    items: IntArray
    """Index into item_ids."""
    starts: IntArray
    """Index of the first click of the click's session."""
    split: IntArray
    """A Split for every click."""
    item_ids: list[str]
    user_ids: npt.NDArray[np.object_]
    """Shape [users]: the id of each user number."""
    first_timestamp: int
    last_timestamp: int
    order: IntArray | None = None
    """Position of each click in the stream of all users; None: the arrays are in stream order."""
    weights: Weights | None = None
    """Shape [N]: how much each click counts as a target, 0: it is none; None: 1 each."""
    event_types: npt.NDArray[np.object_] | None = None
    """Shape [N]: the type of each click, if it is known."""

    def ids_in(self, split: Split) -> list[str]:
        """The items clicked in a split, in order of first appearance."""
        used = self.items[self.split == split]
        first = np.sort(np.unique(used, return_index=True)[1])
        return [self.item_ids[i] for i in used[first]]

    def cases(self, split: Split) -> IntArray:
        """Indices [M] of the targets in a split that have an earlier click in their session."""
        index = np.arange(len(self.items))
        chosen = (self.split == split) & (index > self.starts)
        if self.weights is not None:
            chosen &= self.weights > 0
        cases: IntArray = index[chosen]
        return cases

    def types_of_cases(self, split: Split) -> npt.NDArray[np.object_]:
        """The event type (normalised) of each click in `cases`: shape [M]; "" if not known."""
        cases = self.cases(split)
        if self.event_types is None:
            return np.full(len(cases), "", object)
        types = self.event_types[cases]
        names = {name: normalised(name) for name in set(types)}
        return np.array([names[name] for name in types], object)

    def keep(self, kept: npt.NDArray[np.bool_]) -> ClickLog:
        """A log of the clicks where `kept` [N] is true; user and item numbers do not change."""
        starts = self.starts[kept]  # old indices; they still tell sessions apart
        opens = np.r_[True, starts[1:] != starts[:-1]][: len(starts)]
        index = np.arange(len(starts))
        return replace(
            self,
            users=self.users[kept],
            items=self.items[kept],
            starts=np.maximum.accumulate(np.where(opens, index, 0)) if len(starts) else starts,
            split=self.split[kept],
            order=None if self.order is None else self.order[kept],
            weights=None if self.weights is None else self.weights[kept],
            event_types=None if self.event_types is None else self.event_types[kept],
        )

    def counts(self, vocabulary: Vocabulary) -> IntArray:
        """Clicks per vocabulary item outside the test split: shape [len(vocabulary)]."""
        rows = vocabulary.rows(self.item_ids)[self.items[self.split != Split.TEST]]
        return np.bincount(rows, minlength=len(vocabulary) + 1)[1:]

    def users_per_item(self, vocabulary: Vocabulary) -> IntArray:
        """Users who clicked a vocabulary item outside the test split: shape [len(vocabulary)].

        The popularity that is served: one user counts once, however often they click.
        """
        outside = self.split != Split.TEST
        pairs = np.unique(self.users[outside] * len(self.item_ids) + self.items[outside])
        rows = vocabulary.rows(self.item_ids)[pairs % max(1, len(self.item_ids))]
        return np.bincount(rows, minlength=len(vocabulary) + 1)[1:]


@dataclass(frozen=True)
class Samples:
    """Windows, each with the click that follows it (the target)."""

    histories: IntArray
    """Shape [M, HISTORY_LENGTH], rows of one vocabulary."""
    targets: IntArray
    """Shape [M], rows; PADDING where the vocabulary lacks the item (always a miss)."""
    labels: npt.NDArray[np.float64] | None = None
    """Shape [M], 1 = clicked, 0 = sampled; None: all clicked."""
    users: IntArray | None = None
    """Shape [M], user numbers of the log, for methods that use them."""

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, index: IntArray) -> Samples:
        """The samples at `index`, in that order."""
        labels = None if self.labels is None else self.labels[index]
        users = None if self.users is None else self.users[index]
        return Samples(self.histories[index], self.targets[index], labels, users)


def click_log(
    frame: pd.DataFrame,
    gap_ms: int,
    validation: float = 0.1,
    test: float = 0.1,
    *,
    stable: bool = False,
) -> ClickLog:
    """Group, sessionise and split a log.

    frame: columns user_id, item_id, timestamp (epoch ms), perhaps event_type, and weight, if some
    clicks count more than others (see `weighted`); rows in stream order. gap_ms: session
    gap; 0: sessions never end. validation, test: shares of each user's clicks; the newest are the
    test, those before them the validation. stable: a later log never holds out a click that this
    one trains on, though other users come and go; see `_rounding_by_id`.
    """
    users, unique_users = pd.factorize(frame["user_id"])
    items, item_ids = pd.factorize(frame["item_id"])
    timestamps = frame["timestamp"].to_numpy(np.int64)
    order = np.argsort(users, kind="stable")
    users, items, timestamps = users[order], items[order], timestamps[order]
    user_ids = np.asarray(unique_users, object)
    rounding = _rounding_by_id(user_ids) if stable else _even_rounding(len(user_ids))
    return ClickLog(
        users=users,
        items=items,
        starts=session_starts(users, timestamps, gap_ms),
        split=_temporal_split(users, validation, test, rounding),
        item_ids=[str(item) for item in item_ids],
        user_ids=user_ids,
        first_timestamp=int(timestamps.min(initial=2**62)),
        last_timestamp=int(timestamps.max(initial=0)),
        order=order,
        weights=frame["weight"].to_numpy(np.float32)[order] if "weight" in frame else None,
        event_types=frame["event_type"].to_numpy(object)[order] if "event_type" in frame else None,
    )


def weighted(
    frame: pd.DataFrame,
    event_weights: Mapping[str, float] | None = None,
    label_weights: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Weigh clicks by their event types.

    frame: as from EventLog.read. event_weights, label_weights: what a shop changes about the
    weights of event types (see `weights_of`, `label_weights_of`). Returns the frame without the
    events whose event weight is 0, and with a column `weight`, the label weight, unless all clicks
    weigh the same.
    """
    events = weights_of(event_weights)
    labels = label_weights_of(events, label_weights)
    types, of_row = frame["event_type"].unique(), frame["event_type"]
    kept = of_row.map({name: weight_of(name, events) for name in types}) > 0
    weight = of_row.map({name: weight_of(name, labels) for name in types}).astype(np.float32)
    if kept.all() and weight.nunique() <= 1 and not (weight == 0).any():
        return frame
    return frame[kept].assign(weight=weight[kept]).reset_index(drop=True)


Rounding = npt.NDArray[np.float64]


def _even_rounding(users: int) -> Rounding:
    """Numbers spread evenly over [0, 1): shape [users]."""
    return np.arange(users, dtype=np.float64) * 0.6180339887498949 % 1.0


def _rounding_by_id(user_ids: npt.NDArray[np.object_]) -> Rounding:
    """A number in [0, 1) for each user, the same in any log: shape [users].

    With it, of a user with m more clicks at most m more are held out, and none more of one whose
    oldest clicks have left the log. So whatever a log holds out is new or was held out before.
    """
    hashed = np.asarray(pd.util.hash_array(user_ids), np.uint64)
    return (hashed >> np.uint64(11)).astype(np.float64) / 2.0**53


def _temporal_split(
    users: IntArray, validation: float, test: float, rounding: Rounding
) -> IntArray:
    """Assign a Split to each click: shape [N].

    users: shape [N], grouped, numbers as of `rounding`. The shares hold on average over users: a
    fractional number of clicks is rounded up for some users and down for others, by `rounding`.
    Rounding up always would put all clicks of users with one or two into the test.
    """
    first_of_user = np.r_[True, users[1:] != users[:-1]][: len(users)]
    number = np.cumsum(first_of_user) - 1
    count = np.bincount(number)
    first = np.flatnonzero(first_of_user)
    from_end = (first + count)[number] - np.arange(len(users))  # 1 = the user's newest click
    held_out = np.floor(count * test + rounding)[number]
    before = np.floor(count * (test + validation) + rounding)[number]
    split = np.full(len(users), Split.TRAIN, np.int64)
    split[from_end <= before] = Split.VALIDATION
    split[from_end <= held_out] = Split.TEST
    return split


def samples(log: ClickLog, split: Split, vocabulary: Vocabulary) -> Samples:
    """All windows whose next click is in `split`, as rows of a vocabulary.

    Histories include clicks of earlier splits, as when serving. Windows without a known item, and
    unknown targets, are kept in the test split and dropped in the others.
    """
    rows = vocabulary.rows(log.item_ids)[log.items] if len(log.items) else log.items
    chosen = log.cases(split)
    all_windows = Samples(
        windows(rows, log.starts[chosen], chosen), rows[chosen], users=log.users[chosen]
    )
    if split == Split.TEST:
        return all_windows
    useful = all_windows.histories.any(axis=1) & (all_windows.targets != PADDING)
    return all_windows.take(np.flatnonzero(useful))


def sample_negatives(
    targets: IntArray, per_target: int, items: int, rng: np.random.Generator
) -> IntArray:
    """Draw uniform random catalogue rows other than the target: shape [M, per_target].

    targets: shape [M], no PADDING. Needs items ≥ 2.
    """
    draws = rng.integers(1, items, (len(targets), per_target))
    return draws + (draws >= targets[:, None])  # skip the target


def source_samples(log: ClickLog, vocabulary: Vocabulary, rng: np.random.Generator) -> Samples:
    """The source's training table: each window of the log with a positive and a negative item.

    The positive item (label 1) is the next click; the negative (label 0) is uniformly random, and
    sometimes equals the positive one, as in the source.
    """
    everything = replace(log, split=np.full(len(log.items), Split.TRAIN))
    positive = samples(everything, Split.TRAIN, vocabulary)
    negatives = rng.integers(1, len(vocabulary) + 1, len(positive))
    return Samples(
        np.concatenate([positive.histories, positive.histories]),
        np.concatenate([positive.targets, negatives]),
        np.repeat([1.0, 0.0], len(positive)),
    ).take(rng.permutation(2 * len(positive)))


def random_split(table: Samples, rng: np.random.Generator) -> tuple[Samples, Samples]:
    """Split rows at random into training and validation (20 %), as the source does.

    It leaks: most validation rows have a counterpart in training, with the same history and the
    other label. Only for reproducing the source's figures, never to judge a served model.
    """
    order = rng.permutation(len(table))
    held_out = math.ceil(len(table) * 0.2)
    return table.take(order[held_out:]), table.take(order[:held_out])


def without_invalid_items(log: ClickLog) -> ClickLog:
    """Remove clicks with an INVALID_ITEM item, except in the test, where they are misses."""
    usable = np.array([item_id != INVALID_ITEM for item_id in log.item_ids], bool)
    return log.keep(usable[log.items] | (log.split == Split.TEST)) if len(usable) else log
