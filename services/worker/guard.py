"""The guard: no model that is broken or worse is served for long.

It scores each batch with the served model, and watches a version that was newly swapped in. If that
gives scores that are no finite numbers, or none at all, the model before it answers the very batch;
if its lists are hit less, or it is slower, beyond noise (services/worker/trial.py), the model
before it answers from the next batch on. Either way the slot is told, and it tells the registry.

Everything here happens in the serving thread. What a user was recommended last is kept for the
USERS who clicked last.
"""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

from nextclick.services.worker.trial import Trial, Verdict
from nextclick.services.worker.version_stats import VersionStats
from nextclick.shared.model import Ranking
from nextclick.shared.registry import ServedModel
from nextclick.shared.runtime import metrics
from nextclick.shared.schemas import Click

log = logging.getLogger(__name__)

USERS = 10_000
"""About 5 MB."""
_JUDGED_AT = 10
"""HR@10, however long the lists are."""
_JUDGED_KEPT = 2000
"""If nothing is watched."""


@dataclass(frozen=True)
class _Served:
    model: ServedModel
    record: VersionStats


class Guard:
    """Scores with the served model, and with the one before it if that is found to be bad."""

    def __init__(
        self,
        clicks: int = 0,
        roll_back: Callable[[ServedModel, ServedModel], None] = lambda bad, good: None,
        *,
        users: int = USERS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Watch a new version for so many judged clicks; 0: never.

        `roll_back(bad, good)` is told when `good` serves again in the place of `bad`.
        """
        self._clicks = clicks
        self._roll_back = roll_back
        self._users = users
        self._clock = clock
        self._now: _Served | None = None
        self._before: _Served | None = None
        """While a watch lasts: the last version that came through its own."""
        self._watch: Trial | None = None
        self._rejected: Callable[[], ServedModel | None] = lambda: None
        self._records: list[VersionStats] = []
        self._complained_of: ServedModel | None = None
        self._lists: OrderedDict[str, tuple[VersionStats, tuple[str, ...]]] = OrderedDict()

    def recommend(
        self, model: ServedModel, asked: Sequence[tuple[Click, list[str]]]
    ) -> tuple[ServedModel, list[Ranking]]:
        """Rank for clicks and their histories; return that and the model that did it.

        `model` is what the slot holds now. Whatever a model raises is raised, unless there is
        another that can answer.
        """
        now = self._now
        if now is None or model is not now.model:
            now = self._change_to(model)
        histories = [history for _, history in asked]
        began = self._clock()
        rankings, broken = self._rank(now.model, histories)
        seconds = self._clock() - began
        if broken is not None and self._before is not None:
            now = self._reject(broken)
            rankings, broken = self._rank(now.model, histories)
        if broken is not None:
            if self._complained_of is not now.model:
                log.error(
                    "model %s gives %s; popularity answers",
                    now.model.version,
                    broken.text,
                    extra={"model_version": now.model.version, "reason": broken.reason},
                )
                self._complained_of = now.model
            rankings = _popular_instead(now.model, rankings)
        self._judge(asked, rankings, now.record)
        if asked and broken is None:
            now.record.scored(len(asked), seconds)
            if self._watch is not None:
                self._look(self._watch, len(asked), seconds)
        return now.model, rankings

    def _rank(
        self, model: ServedModel, histories: list[list[str]]
    ) -> tuple[list[Ranking], Verdict | None]:
        try:
            rankings = model.scorer.recommend(histories)
        except Exception as error:
            if self._before is None:
                raise
            about = {"model_version": model.version}
            log.error("model %s cannot score", model.version, exc_info=error, extra=about)
            return [], Verdict("failed", repr(error))
        for ranking in rankings:
            if not _is_finite(ranking):
                return rankings, Verdict("not_finite", "scores that are no finite numbers")
        return rankings, None

    def _judge(
        self,
        asked: Sequence[tuple[Click, list[str]]],
        rankings: list[Ranking],
        record: VersionStats,
    ) -> None:
        lists = self._lists
        for (click, _), ranking in zip(asked, rankings, strict=True):
            user = click.user_id
            last = lists.pop(user, None)
            if last is not None:
                last[0].judge(user, click.item_id in last[1])
            lists[user] = (record, tuple([item.item_id for item in ranking.items[:_JUDGED_AT]]))
        while len(lists) > self._users:
            lists.popitem(last=False)
        for known in self._records:
            taken = known.take()
            if taken.judged:
                metrics.LIVE_JUDGED.labels(known.version).inc(taken.judged)
                metrics.LIVE_HITS.labels(known.version).inc(taken.hits)

    def _look(self, watch: Trial, clicks: int, seconds: float) -> None:
        verdict = watch.scored(clicks, seconds)
        if verdict is not None:
            self._reject(verdict)
        elif watch.over:
            self._watch = self._before = None

    def _change_to(self, model: ServedModel) -> _Served:
        if self._now is not None and model is self._rejected():
            return self._now  # it was read before the slot went back
        # A version that is not through its own watch is nothing to go back to.
        before = self._now if self._watch is None else self._before
        now = _Served(model, VersionStats(model.version, self._clicks or _JUDGED_KEPT))
        self._now, self._before, self._watch = now, None, None
        if before is not None and model.on_trial and self._clicks:
            self._before = before
            self._watch = Trial(now.record, before.record, self._clicks, self._clock)
        self._keep_records([now.record, *([before.record] if before else [])])
        return now

    def _keep_records(self, records: list[VersionStats]) -> None:
        """Show these, and only these: as many labels as there are models in memory."""
        for gone in self._records:
            if gone not in records:
                gone.retire()
        for version in {r.version for r in self._records} - {r.version for r in records}:
            for metric in (metrics.LIVE_JUDGED, metrics.LIVE_HITS):
                with contextlib.suppress(KeyError):  # none of its lists was ever judged
                    metric.remove(version)
        self._records = records

    def _reject(self, verdict: Verdict) -> _Served:
        bad, good = self._now, self._before
        assert bad is not None
        assert good is not None
        log.error(
            "rolled back from model %s to %s, %s: %s",
            bad.model.version,
            good.model.version,
            verdict.reason,
            verdict.text,
            extra={
                "model_version": good.model.version,
                "previous_version": bad.model.version,
                "reason": verdict.reason,
            },
        )
        metrics.ROLLBACKS.labels(verdict.reason).inc()
        self._roll_back(bad.model, good.model)
        self._rejected = weakref.ref(bad.model)
        self._now, self._before, self._watch = good, None, None
        return good


def _is_finite(ranking: Ranking) -> bool:
    return isfinite(sum([item.score for item in ranking.items]))


def _popular_instead(model: ServedModel, rankings: list[Ranking]) -> list[Ranking]:
    (popular,) = model.scorer.recommend([[]])
    instead = Ranking(popular.items, "not_finite")
    return [ranking if _is_finite(ranking) else instead for ranking in rankings]
