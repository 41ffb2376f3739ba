"""From questions to lists: read the histories, apply the rules, score, all for one batch."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from nextclick.services.api.messages import ListFallback
from nextclick.services.api.rule_book import RuleBook
from nextclick.shared.errors import NextclickError, Unavailable
from nextclick.shared.model import Constraints
from nextclick.shared.redis import SessionStore
from nextclick.shared.registry import ModelSlot, ServedModel
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.rate_limit import RateLimit
from nextclick.shared.schemas import ScoredItem
from nextclick.shared.windows import HISTORY_LENGTH

log = logging.getLogger(__name__)

_BACKOFF_SECONDS = 1.0
"""For so long Redis is not asked again after it did not answer: lists come without it meanwhile."""


class NoModel(Unavailable):
    """There is no model yet."""

    def __init__(self) -> None:
        super().__init__("there is no model yet: the registry is empty, or away")


@dataclass(frozen=True, slots=True)
class Question:
    """What somebody wants to know."""

    user_id: str | None
    """Whose history is to be read; None if it is here."""
    history: list[str]
    k: int
    exclude_seen: bool
    category: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """The list for a question."""

    items: list[ScoredItem]
    model_version: str
    history: list[str]
    fallback: ListFallback | None


class Recommender:
    """Answers questions in batches. Used by one thread."""

    def __init__(
        self,
        slot: ModelSlot,
        sessions: SessionStore,
        rules: RuleBook,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slot = slot
        self._sessions = sessions
        self._rules = rules
        self._clock = clock
        self._ask_again = -math.inf
        self._warnings = RateLimit(clock)

    def answer(self, questions: list[Question]) -> list[Answer]:
        """One round trip to Redis, one forward pass.

        Where Redis does not answer, the popular items do. Raises NoModel.
        """
        model = self._slot.model
        if model is None:
            raise NoModel
        histories, without_redis = self._histories(questions)
        rankings = model.scorer.recommend(histories, self._constraints(model, questions))
        answers = []
        for history, ranking, missing in zip(histories, rankings, without_redis, strict=True):
            answer = Answer(ranking.items, model.version, history, ranking.fallback)
            if missing:
                answer = replace(answer, fallback="sessions_unavailable")
            if answer.fallback is not None:
                metrics.FALLBACKS.labels(answer.fallback).inc()
            answers.append(answer)
        return answers

    def _constraints(
        self, model: ServedModel, questions: list[Question]
    ) -> list[Constraints] | None:
        rules = self._rules.rules
        constraints = [
            rules.constraints(model.scorer, q.k, q.exclude_seen, q.category) for q in questions
        ]
        # Without choices a shortlist of a very large catalogue will do.
        needed = any(_has_constraints(c, model.scorer.top_k) for c in constraints)
        return constraints if needed else None

    def _histories(self, questions: list[Question]) -> tuple[list[list[str]], list[bool]]:
        """The history of each question, and whether it is missing because Redis is away."""
        asked = [question.user_id for question in questions if question.user_id is not None]
        found = self._read(asked) if asked else {}
        histories, missing = [], []
        for question in questions:
            held = question.history[-HISTORY_LENGTH:]
            if question.user_id is not None and found is not None:
                held = found[question.user_id]
            histories.append(held)
            missing.append(question.user_id is not None and found is None)
        return histories, missing

    def _read(self, user_ids: list[str]) -> dict[str, list[str]] | None:
        if self._clock() < self._ask_again:
            return None
        try:
            sessions = self._sessions.read(user_ids)
        except NextclickError as error:
            self._ask_again = self._clock() + _BACKOFF_SECONDS
            if self._warnings.allow():
                log.warning("popular items answer instead of the model: %s", error)
            return None
        return {user_id: s.history for user_id, s in zip(user_ids, sessions, strict=True)}


def _has_constraints(constraint: Constraints, top_k: int) -> bool:
    return constraint.k != top_k or constraint.excluded is not None or constraint.without_history
