"""Newest clicks → a delta of the served model. Pure.

Counts of recent pairs are added to the neighbours of the base, as if they had been counted with its
own. How fast the base's counts, and older pairs, are forgotten, and how much the neighbours have to
say, is chosen by how well each choice predicts the newest of these clicks. So a shop that changes
at once is followed within a few hundred clicks, and one that does not is served as before.

One user counts once: for a pair of items, for an item, and in that choice, which stays with the
default unless users gain even without the CROWD who gain most. An item that the base does not know
needs LEAST_USERS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse
import torch
from torch import Tensor

from nextclick.shared.model import BST, Checkpoint, SessionModel
from nextclick.shared.model.delta import MAX_NEW_ITEMS, MAX_ROWS, Delta, applied
from nextclick.shared.windows import HISTORY_LENGTH, PADDING, IntArray, windows
from nextclick.trainer.data import ClickLog, bound_contributions, click_log, weighted
from nextclick.trainer.evaluate import discounted_gain, ranks_of
from nextclick.trainer.fit.cooccurrence import PAIR_REACH, Table, largest

FloatArray = npt.NDArray[np.float64]

LEAST_CLICKS = 2_000
"""Newest clicks that are read even if they are older than the base, as histories of the new ones.
Unless the base was refitted they are counted, too: it did not learn each user's newest ones."""
MAX_CLICKS = 50_000
"""Most clicks that are counted, the newest."""
LEAST_USERS = 3
"""Users who must have clicked an item that the base does not know."""
_CASES = 1_000
"""Newest clicks that choose, at most a third of all."""
_LEAST_CASES = 60
_SCORES = 4_000_000
"""Scores computed for a choice: of a large catalogue fewer clicks choose."""
_STANDARD_ERRORS = 2.0
CROWD = 40
"""Users who may all be bots, as for the guard."""
_LEAST_USERS_LEFT = 10
WEIGHTS = (0.5, 0.9, 0.97)
"""Of the neighbours in the mixture, beside the base's own."""
_ALONE = 0.1
"""Weight of a user's click as a pair with itself. In the base it is 1; but where the network knows
nothing yet, the clicked item itself would stand first in every list."""


@dataclass(frozen=True)
class Forgetting:
    """How much the past counts."""

    base: float
    """Factor on the counts of the base."""
    half_life: float
    """Clicks after which a pair counts half."""


FORGETTING = (
    Forgetting(1.0, np.inf),
    Forgetting(0.1, np.inf),
    Forgetting(0.01, 5_000),
    Forgetting(0.001, 1_000),
)
"""From the one that nothing speaks against to the fastest."""


@dataclass(frozen=True)
class _Recent:
    """Recent clicks as rows of the longer catalogue, grouped by user; arrays of shape [N]."""

    rows: IntArray
    users: IntArray
    starts: IntArray
    age: IntArray
    """Clicks of the stream that came later."""
    oldest: int
    """Clicks of at least this age were learned by the base: they are context only."""

    def cases(self, oldest: int, newest: int = 0) -> IntArray:
        """Indices of clicks of an age in [newest, oldest) that follow another of their session."""
        index = np.arange(len(self.rows))
        chosen = (self.age < oldest) & (self.age >= newest) & (index > self.starts)
        return np.flatnonzero(chosen & (self.rows != PADDING))

    def windows(self, cases: IntArray) -> IntArray:
        """The windows before some clicks: [M, HISTORY_LENGTH]."""
        return windows(self.rows, self.starts[cases], cases)


@dataclass(frozen=True)
class Base:
    """A version, and what of it deltas need."""

    version: str
    sha256: str
    """Of its weights."""
    checkpoint: Checkpoint
    refitted: bool
    """Whether it learned all clicks until it was trained."""


@dataclass(frozen=True)
class Counting:
    """How clicks count, as for a retraining."""

    gap_ms: int
    max_per_minute: int
    """See `bound_contributions`."""
    event_weights: Mapping[str, float]
    label_weights: Mapping[str, float]


def clicks_to_read(new: int) -> int:
    """How many of the newest clicks `learn_newest` wants, if so many came since the base."""
    return min(MAX_CLICKS, max(LEAST_CLICKS, new))


def learn_newest(
    frame: pd.DataFrame, base: Base, new: int, number: int, counting: Counting, forget_count: int
) -> Delta | None:
    """The delta that a log's newest clicks make of a base; None if there is nothing to learn.

    frame: columns user_id, item_id, timestamp, event_type, in order of arrival. new: how many
    clicks came since the base was trained. The other arguments are the delta's.
    """
    frame = weighted(frame, counting.event_weights, counting.label_weights)
    frame, _ = bound_contributions(frame, counting.max_per_minute)
    return learn(
        click_log(frame, counting.gap_ms, validation=0, test=0),
        base.checkpoint,
        base.version,
        base.sha256,
        number,
        forget_count,
        new if base.refitted else None,
    )


def learn(
    log: ClickLog,
    base: Checkpoint,
    version: str,
    sha256: str,
    number: int,
    forget_count: int = 0,
    new: int | None = None,
) -> Delta | None:
    """The delta that recent clicks make of a base; None if there is nothing to learn.

    log: the clicks, bounded per user (`bound_contributions`). new: the newest of them that the base
    did not learn; None: all. The other arguments are the delta's.
    """
    if not isinstance(base.model, BST) or len(log.items) == 0:
        return None
    new_items = _new_items(log, base)
    vocabulary = base.vocabulary.extended(new_items) if new_items else base.vocabulary
    order = np.arange(len(log.items)) if log.order is None else log.order
    recent = _Recent(
        vocabulary.rows(log.item_ids)[log.items],
        log.users,
        log.starts,
        len(order) - 1 - order,
        len(order) if new is None else new,
    )
    counted = np.concatenate([base.popularity, np.zeros(len(new_items), np.int64)])

    def delta(forgetting: Forgetting, weight: float, newest: int = 0) -> Delta | None:
        if (table := _table_of(recent, base.model, counted, forgetting, newest)) is None:
            return None
        touched, rows, shares, users = table
        return Delta(
            version, sha256, number, new_items, touched, rows, shares, weight, users, forget_count
        )

    return delta(*_choose(recent, base, delta))


def _new_items(log: ClickLog, base: Checkpoint) -> list[str]:
    """Items of enough users that the base lacks, those of most users first."""
    unknown = np.flatnonzero(base.vocabulary.rows(log.item_ids) == PADDING)
    pairs = np.unique(log.items * (log.users.max() + 1) + log.users)
    users = np.bincount(pairs // (log.users.max() + 1), minlength=len(log.item_ids))
    enough = unknown[users[unknown] >= LEAST_USERS]
    best = enough[np.argsort(-users[enough], kind="stable")][:MAX_NEW_ITEMS]
    return [log.item_ids[i] for i in best if log.item_ids[i]]


def _table_of(
    recent: _Recent, model: SessionModel, counted: IntArray, forgetting: Forgetting, newest: int
) -> tuple[IntArray, Tensor, Tensor, IntArray] | None:
    """Touched rows, their neighbours' rows and shares, and their users, as in a Delta.

    counted: users per item in the base, [items]; of what it does not know 0. newest: the clicks of
    at least this age count. None if no item is touched.
    """
    assert isinstance(model, BST)
    items, known = len(counted), model.config.items
    pairs = count_pairs_of_users(recent, items, forgetting.half_life, newest)
    alone = users_per_item(recent, items, newest, forgetting.half_life)
    users = users_per_item(recent, items, newest).astype(np.int64)
    all_users = counted + users
    rarity = np.log1p(all_users.sum() / np.maximum(all_users, 1))
    table = ((pairs + scipy.sparse.diags(_ALONE * alone)) @ scipy.sparse.diags(rarity)).tocsr()
    of_row = np.asarray(table.sum(axis=1)).ravel()
    touched = np.flatnonzero((of_row > 0) | (np.arange(items) >= known))
    if len(touched) == 0:
        return None
    if len(touched) > MAX_ROWS:  # the new ones, and of the others those with most pairs
        first = np.lexsort((-of_row[touched], touched < known))
        touched = np.sort(touched[first[:MAX_ROWS]])
    per_user = of_row.sum() / max(1, users.sum())
    before = forgetting.base * per_user * counted[touched]
    past = _rows_of(model, touched, items)
    blended = (scipy.sparse.diags(before) @ past + table[touched]).tocsr()
    rows, values = largest(blended, model.config.neighbours)
    shares = values / np.maximum(before + of_row[touched], 1e-9)[:, None]
    return (
        touched + 1,
        torch.from_numpy(rows).int(),
        torch.from_numpy(shares).float(),
        all_users[touched],
    )


def count_pairs_of_users(recent: _Recent, items: int, half_life: float, newest: int) -> Table:
    """Pairs as `count_pairs` weighs them, but one user's nearest pair of two items only.

    Of the clicks of at least the age `newest`, each pair weighs 0.5 ^ (age / half_life).
    """
    known = (recent.age >= newest) & (recent.rows != PADDING)
    new = recent.age < recent.oldest
    index = np.arange(len(recent.rows))
    users, first, second, weights = [], [], [], []
    for distance in range(1, HISTORY_LENGTH + 1):
        later = index[(index - recent.starts >= distance) & known & new]
        later = later[known[later - distance]]
        users.append(recent.users[later])
        first.append(recent.rows[later - distance] - 1)
        second.append(recent.rows[later] - 1)
        decay = 0.5 ** ((recent.age[later] - newest) / half_life)
        weights.append(np.exp(-distance / PAIR_REACH) * decay)
    user, a, b = np.concatenate(users), np.concatenate(first), np.concatenate(second)
    weight = np.concatenate(weights)
    heaviest = np.argsort(-weight, kind="stable")
    key = (user * items + a) * items + b
    kept = heaviest[np.unique(key[heaviest], return_index=True)[1]]
    table = Table((weight[kept], (a[kept], b[kept])), (items, items))
    return (table + table.T).tocsr()


def users_per_item(
    recent: _Recent, items: int, newest: int, half_life: float = np.inf
) -> FloatArray:
    """Users of each item by clicks of at least an age: [items]; each counts 0.5 ^ (age / half_life)
    of the newest click."""
    chosen = (recent.age >= newest) & (recent.age < recent.oldest)
    known = np.flatnonzero(chosen & (recent.rows != PADDING))
    known = known[np.argsort(recent.age[known], kind="stable")]
    key = recent.users[known] * items + recent.rows[known] - 1
    kept = known[np.unique(key, return_index=True)[1]]
    decay = 0.5 ** ((recent.age[kept] - newest) / half_life)
    return np.bincount(recent.rows[kept] - 1, decay, minlength=items).astype(np.float64)


def _rows_of(model: BST, touched: IntArray, items: int) -> Table:
    """Some items' neighbours in the base: [T, items]; none of an item that it does not know."""
    known = torch.from_numpy(np.where(touched < model.config.items, touched + 1, PADDING))
    rows = model.neighbours.rows.cpu()[known].numpy()
    shares = model.neighbours.shares.cpu()[known].numpy().astype(np.float64)
    number = np.repeat(np.arange(len(touched)), rows.shape[1])
    there = rows.ravel() != PADDING
    places = (number[there], rows.ravel()[there] - 1)
    return Table((shares.ravel()[there], places), (len(touched), items))


def _choose(
    recent: _Recent,
    base: Checkpoint,
    delta: Callable[[Forgetting, float, int], Delta | None],
) -> tuple[Forgetting, float]:
    """Forgetting and weight that predict the newest clicks best, or the default ones.

    delta(forgetting, weight, newest): made of the clicks of at least the age `newest`.
    """
    assert isinstance(base.model, BST)
    default = FORGETTING[0], base.model.neighbours.weight.item()
    unknown = min(recent.oldest, len(recent.rows))
    newest = min(_CASES, unknown // 3, _SCORES // len(base.vocabulary))
    cases = recent.cases(newest)
    cases = cases[recent.windows(cases).any(axis=1)]
    if len(cases) < _LEAST_CASES:
        return default
    chosen, usual, best = default, None, 0.0
    for forgetting in FORGETTING:
        made = delta(forgetting, default[1], newest)
        if made is None:  # all clicks are that new
            return default
        model = applied(made, base).model
        for weight, gains in _gains(model, recent, cases, (default[1], *WEIGHTS)):
            if usual is None:
                usual = gains
            elif (gain := _certain_gain(gains, usual)) > best:
                chosen, best = (forgetting, weight), gain
    return chosen


def _gains(
    model: SessionModel, recent: _Recent, cases: IntArray, weights: Sequence[float]
) -> Iterator[tuple[float, FloatArray]]:
    """Each weight of the neighbours, and each user's mean of 1/log2(1 + rank): [users]."""
    assert isinstance(model, BST)
    users = np.unique(recent.users[cases], return_inverse=True)[1]
    clicks = np.bincount(users)
    with torch.inference_mode():
        histories = torch.from_numpy(recent.windows(cases)).to(model.about_share.device)
        logits = model.logits(histories, model.catalogue())
        for weight in weights:
            model.neighbours.weight = torch.tensor(weight, device=logits.device)
            scores = model.log_probabilities(logits, histories).cpu().numpy()
            gains = discounted_gain(ranks_of(scores, recent.rows[cases]))
            yield weight, np.bincount(users, gains) / clicks


def _certain_gain(gains: FloatArray, usual: FloatArray) -> float:
    """The mean by which users, [users] both, gain, without the CROWD who gain most, and less noise.

    Above 0 only if honest users gain, whatever CROWD bots do.
    """
    difference = np.sort(gains - usual)[: max(0, len(gains) - CROWD)]
    if len(difference) < _LEAST_USERS_LEFT:
        return 0.0
    error = difference.std() / np.sqrt(len(difference))
    return float(difference.mean() - _STANDARD_ERRORS * error)
