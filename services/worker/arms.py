"""A live experiment in the worker: each user's clicks are scored by the model of the user's arm.

Arm a is what the guard answers with. If the model of arm b fails or gives scores that are not
finite, arm a answers the whole batch, and the slot is told, so that this worker takes no part in
the experiment from then on. What is not answered by the versions of the experiment, in both arms,
is not marked as part of it, and so counts for neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nextclick.services.worker.guard import Guard, Requests, Score, plain_lists
from nextclick.services.worker.last_lists import LastLists
from nextclick.shared.experiments import Arm, Experiment
from nextclick.shared.model import Ranking
from nextclick.shared.registry import ArmBroken, Arms, ServedModel, split_by_arm
from nextclick.shared.runtime import metrics
from nextclick.shared.schemas import ExperimentArm


@dataclass(frozen=True, slots=True)
class Source:
    """What made a list."""

    model_version: str
    """As answers name it."""
    experiment: ExperimentArm | None = None


class ArmScorer:
    """Scores batches by arm."""

    def __init__(
        self,
        guard: Guard,
        refuse: Callable[[Experiment, str], None] = lambda experiment, why: None,
        judged: Callable[[str], bool] = lambda event_type: True,
    ) -> None:
        """refuse(experiment, why): called when arm b is broken. judged: see `LastLists`."""
        self.guard = guard
        self._refuse = refuse
        self._lists = LastLists[Arm](judged)
        self._judged = judged
        self._experiment: Experiment | None = None
        """Whose lists `_lists` are."""
        self._refused: Experiment | None = None

    def recommend(
        self,
        model: ServedModel,
        arms: Arms | None,
        requests: Requests,
        score: Score = plain_lists,
    ) -> tuple[list[Source], list[list[Ranking]]]:
        """Rank for clicks and their histories; returns what made each list, and the rankings.

        model, arms: those in the slot. score: see `Guard.recommend`.
        """
        split = split_by_arm(model, arms, (click.user_id for click, _ in requests))
        if split is None or not requests:
            return self._by_guard(model, requests, score)
        experiment = split.experiment
        if experiment == self._refused:  # the caller read the slot before
            return self._by_guard(model, requests, score)
        of_a, of_b = split.part("a", requests), split.part("b", requests)
        try:
            lists_b = split.rank_by_b(lambda b: score(b.scorer, of_b))
        except ArmBroken as error:
            self._refused = experiment
            self._refuse(experiment, str(error))
            return self._by_guard(model, requests, score)
        answered, lists_a = self.guard.recommend(model, of_a, score) if of_a else (model, [])
        lists = split.merged(lists_a, lists_b)
        # If the guard has taken the model back, nothing is marked.
        marks = split.marks if answered is model else {}
        source: dict[Arm, Source] = {
            "a": Source(answered.name, marks.get("a")),
            "b": Source(split.arms.b.name, marks.get("b")),
        }
        sources = [source[arm] for arm in split.of]
        if not marks:
            return sources, lists
        self.guard.forget([click.user_id for click, _ in of_b])
        if experiment != self._experiment:
            self._experiment, self._lists = experiment, LastLists(self._judged)
        self._count(requests, split.of, lists[0])
        return sources, lists

    def _by_guard(
        self, model: ServedModel, requests: Requests, score: Score
    ) -> tuple[list[Source], list[list[Ranking]]]:
        answered, lists = self.guard.recommend(model, requests, score)
        return [Source(answered.name)] * len(requests), lists

    def _count(self, requests: Requests, of: Sequence[Arm], rankings: Sequence[Ranking]) -> None:
        """The metrics of the arms."""
        for arm, count in Counter(of).items():
            metrics.EXPERIMENT_LISTS.labels(arm).inc(count)
        for (click, _), arm, ranking in zip(requests, of, rankings, strict=True):
            if (judgement := self._lists.judge(click)) is not None:
                metrics.EXPERIMENT_JUDGED.labels(judgement[0]).inc()
                metrics.EXPERIMENT_HITS.labels(judgement[0]).inc(judgement[1])
            self._lists.keep(click.user_id, arm, ranking)
        self._lists.shrink()
