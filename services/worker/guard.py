"""The guard: rolls back a new model version that is broken, worse or slower.

It scores each batch with the served model, and keeps a newly published version on trial. If that
version fails or gives scores that are not finite, the previous model answers the same batch. If it
has a significantly lower hit rate or is slower (services/worker/trial.py), the previous model
answers from the next batch on. In both cases the model slot is told, which rolls the registry back.

Everything here runs in the serving thread.
"""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from nextclick.services.worker.last_lists import USERS, LastLists
from nextclick.services.worker.trial import Trial, Verdict
from nextclick.services.worker.version_stats import VersionStats
from nextclick.shared.model import Ranking, Scorer, are_finite
from nextclick.shared.registry import ServedModel
from nextclick.shared.runtime import metrics
from nextclick.shared.schemas import Click

log = logging.getLogger(__name__)

_JUDGED_KEPT = 2000
"""Users kept per version if the guard is off."""


Requests = Sequence[tuple[Click, list[str]]]
"""Clicks, each with its history."""
Score = Callable[[Scorer, Requests], list[list[Ranking]]]
"""Makes the rankings for requests: for each kind of list one per request."""


def plain_lists(scorer: Scorer, requests: Requests) -> list[list[Ranking]]:
    """One kind of list, without constraints."""
    return [scorer.recommend([history for _, history in requests])]


@dataclass(frozen=True)
class _Served:
    model: ServedModel
    stats: VersionStats


class Guard:
    """Scores with the served model, or with the previous one if the new version is rejected."""

    def __init__(
        self,
        clicks: int = 0,
        roll_back: Callable[[ServedModel, ServedModel, str], None] = lambda bad, good, reason: None,
        *,
        judged: Callable[[str], bool] = lambda event_type: True,
        users: int = USERS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """clicks: judged clicks for which a new version is on trial; 0: no trial.

        roll_back(bad, good, reason) is called when `good` serves again instead of `bad`.
        judged(event_type): whether a click of the type says if the list before it was a hit.
        users: last lists kept. clock: seconds.
        """
        self._clicks = clicks
        self._roll_back = roll_back
        self._clock = clock
        self._current: _Served | None = None
        self._previous: _Served | None = None
        """During a trial: the version to roll back to."""
        self._trial: Trial | None = None
        self._rejected: Callable[[], ServedModel | None] = lambda: None
        self._stats: list[VersionStats] = []
        self._error_logged_for: ServedModel | None = None
        self._lists = LastLists[VersionStats](judged, users)

    def recommend(
        self,
        model: ServedModel,
        requests: Requests,
        score: Score = plain_lists,
    ) -> tuple[ServedModel, list[list[Ranking]]]:
        """Rank for clicks and their histories; returns the model that answered, and the rankings.

        model: the model in the slot. score: makes the rankings; there may be several kinds, of
        which the first is judged. An error of a model is raised, unless it is on trial: then the
        previous model answers.
        """
        now = self._current
        if now is None or model is not now.model:
            now = self._switch_to(model)
        began = self._clock()
        lists, broken = self._rank(now.model, requests, score)
        seconds = self._clock() - began
        if broken is not None and self._previous is not None:
            now = self._reject(broken)
            lists, broken = self._rank(now.model, requests, score)
        if broken is not None:
            if self._error_logged_for is not now.model:
                log.error(
                    "model %s gives %s; popular items are recommended instead",
                    now.model.version,
                    broken.text,
                    extra={"model_version": now.model.version, "reason": broken.reason},
                )
                self._error_logged_for = now.model
            lists = _replace_not_finite(now.model, requests, lists, score)
        self._judge(requests, lists[0], now.stats)
        if requests and broken is None:
            now.stats.scored(len(requests), seconds)
            if self._trial is not None:
                self._check_trial(self._trial, len(requests), seconds)
        return now.model, lists

    def forget(self, user_ids: Sequence[str]) -> None:
        """Do not judge the last lists of users: they have got another list since."""
        self._lists.forget(user_ids)

    def _rank(
        self, model: ServedModel, requests: Requests, score: Score
    ) -> tuple[list[list[Ranking]], Verdict | None]:
        try:
            lists = score(model.scorer, requests)
        except Exception as error:
            if self._previous is None:
                raise
            fields = {"model_version": model.version}
            log.error("model %s cannot score", model.version, exc_info=error, extra=fields)
            return [], Verdict("failed", repr(error))
        if all(are_finite(rankings) for rankings in lists):
            return lists, None
        return lists, Verdict("not_finite", "scores that are not finite")

    def _judge(
        self,
        requests: Requests,
        rankings: list[Ranking],
        stats: VersionStats,
    ) -> None:
        lists = self._lists
        for (click, _), ranking in zip(requests, rankings, strict=True):
            if (judgement := lists.judge(click)) is not None:
                judgement[0].judge(click.user_id, judgement[1])
            lists.keep(click.user_id, stats, ranking)
        lists.shrink()
        for stats_of_version in self._stats:
            hits, judged = stats_of_version.take_new()
            if judged:
                metrics.LIVE_JUDGED.labels(stats_of_version.version).inc(judged)
                metrics.LIVE_HITS.labels(stats_of_version.version).inc(hits)

    def _check_trial(self, trial: Trial, clicks: int, seconds: float) -> None:
        verdict = trial.scored(clicks, seconds)
        if verdict is not None:
            self._reject(verdict)
        elif trial.over:
            self._trial = self._previous = None

    def _switch_to(self, model: ServedModel) -> _Served:
        if self._current is not None and model is self._rejected():
            return self._current  # the caller read the slot before the rollback
        current = self._current
        if (
            current is not None
            and model.version == current.model.version
            and model.delta != current.model.delta
        ):  # the version is judged, not its deltas
            self._current = _Served(model, current.stats)
            return self._current
        # Never roll back to a version that is still on trial itself.
        before = self._current if self._trial is None else self._previous
        now = _Served(model, VersionStats(model.version, self._clicks or _JUDGED_KEPT))
        self._current, self._previous, self._trial = now, None, None
        if before is not None and model.on_trial and self._clicks:
            self._previous = before
            self._trial = Trial(now.stats, before.stats, self._clicks, self._clock)
        self._keep_stats([now.stats, *([before.stats] if before else [])])
        return now

    def _keep_stats(self, records: list[VersionStats]) -> None:
        """Keep the metrics of these versions only, so that the number of labels stays bounded."""
        for gone in self._stats:
            if gone not in records:
                gone.retire()
        for version in {r.version for r in self._stats} - {r.version for r in records}:
            for metric in (metrics.LIVE_JUDGED, metrics.LIVE_HITS):
                with contextlib.suppress(KeyError):  # none of its lists was judged
                    metric.remove(version)
        self._stats = records

    def _reject(self, verdict: Verdict) -> _Served:
        bad, good = self._current, self._previous
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
        self._roll_back(bad.model, good.model, f"by the guard, {verdict.reason}: {verdict.text}")
        self._rejected = weakref.ref(bad.model)
        self._current, self._previous, self._trial = good, None, None
        return good


def _replace_not_finite(
    model: ServedModel, requests: Requests, lists: list[list[Ranking]], score: Score
) -> list[list[Ranking]]:
    popular = score(model.scorer, [(click, []) for click, _ in requests])
    return [
        [
            r if are_finite([r]) else replace(instead, fallback="not_finite")
            for r, instead in zip(*kind, strict=True)
        ]
        for kind in zip(lists, popular, strict=True)
    ]
