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
from nextclick.shared.model import Ranking, are_finite
from nextclick.shared.registry import Arms, ServedModel
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
        if arms is None or not requests or model.name != arms.experiment.a:
            return self._by_guard(model, requests, score)
        if arms.experiment == self._refused:  # the caller read the slot before
            return self._by_guard(model, requests, score)
        of = [arms.experiment.arm_of(click.user_id) for click, _ in requests]
        of_b = [request for request, arm in zip(requests, of, strict=True) if arm == "b"]
        lists_b = self._by_b(arms, of_b, score)
        if lists_b is None:
            return self._by_guard(model, requests, score)
        of_a = [request for request, arm in zip(requests, of, strict=True) if arm == "a"]
        if not of_a:
            sources, lists = self._marked(arms.experiment, of), lists_b
        else:
            answered, lists_a = self.guard.recommend(model, of_a, score)
            if not of_b:
                lists = lists_a
            else:
                lists = [_merged(of, *kinds) for kinds in zip(lists_a, lists_b, strict=True)]
            sources = self._marked(arms.experiment, of)
            if answered is not model:  # the guard has taken it back
                versions = {"a": answered.name, "b": arms.b.name}
                return [Source(versions[arm]) for arm in of], lists
        self.guard.forget([click.user_id for click, _ in of_b])
        if arms.experiment != self._experiment:
            self._experiment, self._lists = arms.experiment, LastLists(self._judged)
        self._count(requests, of, lists[0])
        return sources, lists

    def _by_guard(
        self, model: ServedModel, requests: Requests, score: Score
    ) -> tuple[list[Source], list[list[Ranking]]]:
        answered, lists = self.guard.recommend(model, requests, score)
        return [Source(answered.name)] * len(requests), lists

    def _by_b(self, arms: Arms, requests: Requests, score: Score) -> list[list[Ranking]] | None:
        """The rankings of arm b; None if its model is broken."""
        if not requests:
            return []
        try:
            lists = score(arms.b.scorer, requests)
            problem = "" if all(map(are_finite, lists)) else "scores that are not finite"
        except Exception as error:
            lists, problem = [], repr(error)
        if not problem:
            return lists
        self._refused = arms.experiment
        self._refuse(arms.experiment, f"model {arms.b.version} gives {problem}")
        return None

    def _marked(self, experiment: Experiment, of: Sequence[Arm]) -> list[Source]:
        source: dict[Arm, Source] = {
            "a": Source(experiment.a, ExperimentArm(name=experiment.name, arm="a")),
            "b": Source(experiment.b, ExperimentArm(name=experiment.name, arm="b")),
        }
        return [source[arm] for arm in of]

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


def _merged(of: Sequence[Arm], of_a: list[Ranking], of_b: list[Ranking]) -> list[Ranking]:
    """One list for each of the arms, in their order."""
    left: dict[Arm, list[Ranking]] = {"a": of_a[::-1], "b": of_b[::-1]}
    return [left[arm].pop() for arm in of]
