"""V-SkNN: recommends the items of similar sessions.

Ludewig and Jannach, Evaluation of Session-based Recommendation Algorithms (2018), with the index
of VMIS-kNN (Kersbergen, Sprangers and Schelter, Serenade, SIGMOD 2022): for each item the newest
sessions that hold it, so that a query reads a few thousand entries for any length of the log.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nextclick.shared.model import Vocabulary
from nextclick.shared.windows import PADDING, IntArray
from nextclick.trainer.compare.baselines.counting import popularity_tie_break
from nextclick.trainer.compare.method import Scores
from nextclick.trainer.data import ClickLog, Samples, Sessions, sessions_of

FloatArray = npt.NDArray[np.float64]


class VSkNN:
    """Vector multiplication session-based kNN.

    1. The `sample` newest sessions that share an item with the current one are candidates.
    2. A candidate's similarity is the sum of 1/p over the shared items, with p = 1 for the last
       click of the current session, 2 for the one before, ….
    3. The `neighbours` most similar ones (among ties, the newest) score their items with
       similarity × 1/p of the newest shared item × exp(−distance / `reach`) × IDF. The distance is
       counted in clicks of the neighbour, from the newest shared item.

    On validation sessions, the decay 1/p in 2 and the distance in 3 (from STAN, Garg et al., SIGIR
    2019) were better than the original linear decay without distance.
    """

    name = "V-SkNN"

    def __init__(self, sample: int = 2500, neighbours: int = 500, reach: float = 4.0) -> None:
        self.sample = sample
        self.neighbours = neighbours
        self.reach = reach

    def fit(self, log: ClickLog, vocabulary: Vocabulary, seed: int) -> None:
        """Build the index: items of each session, and sessions of each item, newest first."""
        sessions = sessions_of(log, vocabulary)
        entry = _last_click_on_each_item(sessions, len(vocabulary))
        item = sessions.rows[entry] - 1
        session = sessions.number[entry]
        place = entry - sessions.starts[entry]
        self._items_of = _Lists(session, item, place, len(sessions))
        newest_first = np.argsort(-session, kind="stable")
        self._sessions_of = _Lists(
            item[newest_first], session[newest_first], place[newest_first], len(vocabulary)
        )
        holding = np.maximum(np.diff(self._sessions_of.bounds), 1)
        self._idf = np.log((1.0 + len(sessions)) / holding)
        self._tie_break = popularity_tie_break(log, vocabulary)

    def score(self, cases: Samples) -> Scores:
        """Score by the neighbours' items, ties by popularity: shape [B, items]."""
        scores = np.empty((len(cases), len(self._idf)), np.float32)
        scratch = _Scratch(len(self._items_of.bounds) - 1)
        for scored, history in zip(scores, cases.histories, strict=True):
            scored[:] = self._score(history[history != PADDING] - 1, scratch) + self._tie_break
        return scores

    def _score(self, history: IntArray, scratch: _Scratch) -> FloatArray:
        """Scores [items] for one session. history: item columns, oldest first."""
        candidates = self._compare(history, scratch)
        near = self._nearest(candidates, scratch.similarity[candidates])
        votes = scratch.similarity[near] * scratch.newest_weight[near]
        scratch.similarity[candidates] = 0.0  # reset for the next session

        entry, counts = self._items_of.entries(near)
        distance = np.abs(
            self._items_of.place[entry] - np.repeat(scratch.newest_place[near], counts)
        )
        votes = np.repeat(votes, counts) * np.exp(-distance / self.reach)
        scores = np.bincount(self._items_of.member[entry], votes, len(self._idf))
        return np.asarray(scores * self._idf, np.float64)

    def _compare(self, history: IntArray, scratch: _Scratch) -> IntArray:
        """Fill `scratch` for all sessions that share an item; returns these sessions."""
        weights: dict[int, float] = {}
        for p, item in enumerate(reversed(history.tolist()), start=1):
            weights.setdefault(item, 1.0 / p)
        found = [np.zeros(0, np.int32)]
        for item, weight in weights.items():  # newest first
            begin, end = self._sessions_of.bounds[item : item + 2]
            newest = slice(begin, min(begin + self.sample, end))
            sessions = self._sessions_of.member[newest]
            first_met = scratch.similarity[sessions] == 0.0
            scratch.newest_weight[sessions[first_met]] = weight
            scratch.newest_place[sessions[first_met]] = self._sessions_of.place[newest][first_met]
            scratch.similarity[sessions] += weight
            found.append(sessions[first_met])
        return np.concatenate(found)

    def _nearest(self, candidates: IntArray, similarity: FloatArray) -> IntArray:
        """The most similar of the newest candidates."""
        if len(candidates) > self.sample:
            newest = np.argpartition(-candidates, self.sample - 1)[: self.sample]
            candidates, similarity = candidates[newest], similarity[newest]
        return candidates[np.lexsort((-candidates, -similarity))[: self.neighbours]]


class _Lists:
    """Members of many lists in flat arrays: list i is at bounds[i] … bounds[i + 1]."""

    def __init__(self, number: IntArray, member: IntArray, place: IntArray, lists: int) -> None:
        """Group members, and their place in their session, by list number, in stable order."""
        by_list = np.argsort(number, kind="stable")
        self.bounds = np.concatenate([[0], np.cumsum(np.bincount(number, minlength=lists))])
        self.member = member[by_list].astype(np.int32)
        self.place = place[by_list].astype(np.int32)

    def entries(self, lists: IntArray) -> tuple[IntArray, IntArray]:
        """Indices of the members of some lists, list after list, and the count of each list."""
        begin = self.bounds[lists]
        counts = self.bounds[lists + 1] - begin
        shift = np.repeat(begin - np.cumsum(counts) + counts, counts)
        return shift + np.arange(len(shift)), counts


class _Scratch:
    """Reusable arrays for one query, each of shape [sessions]."""

    def __init__(self, sessions: int) -> None:
        self.similarity = np.zeros(sessions)
        """Similarity to the current session; 0 without a shared item."""
        self.newest_weight = np.zeros(sessions)
        """Weight of the newest shared click of the current session."""
        self.newest_place = np.zeros(sessions, np.int32)
        """Position of that item in the other session."""


def _last_click_on_each_item(sessions: Sessions, items: int) -> IntArray:
    """Indices of the last click of each session on each of its items."""
    key = sessions.number * (items + 1) + sessions.rows
    from_the_end = np.unique(key[::-1], return_index=True)[1]
    last: IntArray = len(key) - 1 - from_the_end
    return last
