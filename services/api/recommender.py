"""Answers a batch of list requests: read the histories, prepare the constraints, score."""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from nextclick.services.api.messages import ListFallback
from nextclick.services.api.published_clicks import PublishedClicks
from nextclick.services.api.rule_book import RuleBook
from nextclick.services.api.rules import MergedAttributes
from nextclick.shared.errors import NextclickError, Unavailable
from nextclick.shared.experiments import Arm
from nextclick.shared.items import ItemAttributes, ItemStates
from nextclick.shared.model import Constraints, KeptOut, Ranking, seed_of
from nextclick.shared.past import PastClick, kept_out
from nextclick.shared.profiles import Profile
from nextclick.shared.redis import Session, SessionStore
from nextclick.shared.registry import ArmBroken, ModelSlot, ServedModel, split_by_arm
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.rate_limit import RateLimit
from nextclick.shared.schemas import (
    Click,
    DrawnItems,
    ExperimentArm,
    KeptOutItems,
    ScoredItem,
)
from nextclick.shared.windows import HISTORY_LENGTH

log = logging.getLogger(__name__)

_BACKOFF_SECONDS = 1.0
"""After a failed read, Redis is not read for this long; popular items answer meanwhile."""


class NoModel(Unavailable):
    """No model is loaded yet."""

    def __init__(self) -> None:
        super().__init__("there is no model yet: the registry is empty or cannot be reached")


@dataclass(frozen=True, slots=True)
class ListRequest:
    """A request for a list."""

    user_id: str | None
    """The user whose history to read from Redis; None: use `history`."""
    history: list[str]
    k: int
    exclude_seen: bool
    profiles: tuple[Profile, ...] = ()
    """All of them hold."""
    profile: str | None = None
    """The name of one of them, if it has one."""
    click: Click | None = None
    """A click of the user that was published just now: the list is for the history that it ends."""


@dataclass(frozen=True, slots=True)
class ListAnswer:
    """The list for a request."""

    items: list[ScoredItem]
    model_version: str
    history: list[str]
    fallback: ListFallback | None
    shortened_by: dict[str, int] | None
    experiment: ExperimentArm | None = None
    exploration: DrawnItems | None = None
    kept_out: KeptOutItems | None = None


class Recommender:
    """Answers list requests in batches. Used by one thread."""

    def __init__(
        self,
        slot: ModelSlot,
        sessions: SessionStore,
        rules: RuleBook,
        published: PublishedClicks,
        items: Callable[[], ItemStates] = ItemStates,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._now = now
        self._slot = slot
        self._sessions = sessions
        self._rules = rules
        self._published = published
        self._items = items
        self._attributes = MergedAttributes()
        self._clock = clock
        self._retry_at = -math.inf
        self._warnings = RateLimit(clock)

    def answer(self, requests: list[ListRequest]) -> list[ListAnswer]:
        """Answer requests, in order, with one round trip to Redis and one forward pass.

        If Redis does not answer, requests by user id get the popular items. Raises NoModel.
        """
        model = self._slot.model
        if model is None:
            raise NoModel
        sessions, without_redis = self._sessions_of(requests)
        ranked = self._by_arm(model, requests, sessions)
        answers = []
        for session, (by, arm, ranking), missing in zip(
            sessions, ranked, without_redis, strict=True
        ):
            answer = ListAnswer(
                ranking.items,
                by.name,
                session.history,
                ranking.fallback,
                ranking.shortened_by,
                arm,
                ranking.drawn,
                ranking.kept_out,
            )
            if missing:
                answer = replace(answer, fallback="sessions_unavailable")
            if answer.fallback is not None:
                metrics.FALLBACKS.labels(answer.fallback).inc()
            answers.append(answer)
        return answers

    def _by_arm(
        self, model: ServedModel, requests: list[ListRequest], sessions: list[Session]
    ) -> list[tuple[ServedModel, ExperimentArm | None, Ranking]]:
        """For each request the model of its user's arm, the arm in an experiment, and the list.

        A request that names no user is in no arm. If arm b is broken, all get the other one.
        """
        split = split_by_arm(model, self._slot.arms, (q.user_id for q in requests))
        if split is None:
            return [(model, None, r) for r in self._rank(model, requests, sessions)]

        def rank(by: ServedModel, arm: Arm) -> list[list[Ranking]]:
            return [self._rank(by, split.part(arm, requests), split.part(arm, sessions))]

        try:
            lists_b = split.rank_by_b(lambda b: rank(b, "b"))
        except ArmBroken as error:
            self._slot.refuse_arms(split.experiment, str(error))
            return [(model, None, r) for r in self._rank(model, requests, sessions)]
        (rankings,) = split.merged(rank(model, "a"), lists_b)
        models, marks = {"a": model, "b": split.arms.b}, split.marks
        return [
            (models[arm], marks[arm] if q.user_id else None, ranking)
            for q, arm, ranking in zip(requests, split.of, rankings, strict=True)
        ]

    def _rank(
        self, model: ServedModel, requests: list[ListRequest], sessions: list[Session]
    ) -> list[Ranking]:
        items, histories = self._items(), [session.history for session in sessions]
        constraints = self._constraints(model, requests, sessions, items.attributes)
        explores = constraints is not None and any(c.drawn_places for c in constraints)
        seeds = [*map(_seed, requests, histories)] if explores else None
        return model.scorer.recommend(histories, constraints, items.withheld, seeds)

    def _constraints(
        self,
        model: ServedModel,
        requests: list[ListRequest],
        sessions: list[Session],
        topic: ItemAttributes,
    ) -> list[Constraints] | None:
        constraints = []
        for q, session in zip(requests, sessions, strict=True):
            if q.profiles:
                attributes = self._attributes.merged(self._rules.rules, topic)
                prepared = model.scorer.prepare(q.profiles, attributes)
                made = prepared(q.k, q.exclude_seen)
                if (kept := self._kept_out(q, session)) is not None:
                    made = replace(made, kept_out=KeptOut.of(kept, model.scorer.vocabulary))
                constraints.append(made)
            else:
                constraints.append(Constraints(q.k, q.exclude_seen))
        # Without constraints the scorer can use the shortlist of a very large catalogue.
        needed = any(_has_constraints(c, model.scorer.top_k) for c in constraints)
        return constraints if needed else None

    def _kept_out(self, request: ListRequest, session: Session) -> KeptOutItems | None:
        """What the user's own clicks keep out: as of a click that was published, else as of now.

        Of a visitor without an id that is the history of the request.
        """
        now_ms = int(self._now() * 1000)
        if request.click is not None and session.last_click is not None:
            now_ms = session.last_click
        past = session.past
        if request.user_id is None:
            past = [PastClick(item_id, now_ms, bought=False) for item_id in session.history]
        return kept_out(past, now_ms, request.profiles)

    def _sessions_of(self, requests: list[ListRequest]) -> tuple[list[Session], list[bool]]:
        """The session of each request, and whether it is missing because Redis did not answer."""
        found = self._read(requests) if any(q.user_id is not None for q in requests) else {}
        sessions, missing = [], []
        for place, request in enumerate(requests):
            session = Session(request.history[-HISTORY_LENGTH:])
            if request.user_id is not None and found is not None:
                session = found[place]
            sessions.append(session)
            missing.append(request.user_id is not None and found is None)
        return sessions, missing

    def _read(self, requests: list[ListRequest]) -> dict[int, Session] | None:
        """Place of a request with a user → the session; None if Redis does not answer."""
        if self._clock() < self._retry_at:
            return None
        clicks: list[Click] = []
        last_click: dict[int, int] = {}
        users: dict[int, str] = {}
        for place, request in enumerate(requests):
            if request.click is not None and (new := self._published.up_to(request.click)):
                clicks += new
                last_click[place] = len(clicks) - 1
            elif request.user_id is not None:
                users[place] = request.user_id
        try:
            after = self._sessions.preview_with_past(clicks) if clicks else []
            sessions = self._sessions.read(list(users.values())) if users else []
        except NextclickError as error:
            self._retry_at = self._clock() + _BACKOFF_SECONDS
            if self._warnings.allow():
                log.warning("popular items answer instead of the model: %s", error)
            return None
        found = dict(zip(users, sessions, strict=True))
        return found | {place: after[last] for place, last in last_click.items()}


def _seed(request: ListRequest, history: list[str]) -> int:
    """What a list is drawn from.

    For a click that of the worker's list. A user's list stays the same until the next click.
    Without a user each request draws anew: two visitors may have the same history.
    """
    if request.click is not None:
        return seed_of(request.click.user_id, request.click.event_id)
    if request.user_id is not None:
        return seed_of(request.user_id, "\0".join(history))
    return secrets.randbits(64)


def _has_constraints(constraint: Constraints, top_k: int) -> bool:
    return constraint.k != top_k or bool(constraint.profiles) or constraint.without_history
