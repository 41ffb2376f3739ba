"""The state of the page, computed from the messages on the topics. Pure, and bounded in memory.

Latency is the worker's own: from a click's timestamp until its answer is on the topic. A hit is a
click on an item of the list that the shopper got before, as in `shared/stream_metrics.py`. An
answer that was read already counts as doubled, and for nothing else.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from nextclick.shared.schemas import Click, Recommendation
from nextclick.shared.stream_metrics import K, TopItems
from nextclick.shared.version_names import base_of

K_ = TypeVar("K_")
V_ = TypeVar("V_")

STEP_SECONDS = 2
"""Time span of one point of the charts."""
POINTS = 300
"""Points kept: ten minutes."""
WINDOW_SECONDS = 60
"""Window of the hit rates in the chart and of the latency; shorter ones are noisy."""
SHOPPERS = 300
"""Shoppers kept, by newest click; only their lists can be judged."""
NEWEST = 40
"""Newest clicks kept."""
ANSWERS_KEPT = 20_000
"""Newest answers by which doubled ones are recognised."""
USERS_COUNTED = 50_000
"""Most users whose clicks are counted in a minute, and whose partition is remembered."""
REASONS = 100
"""Reasons of dead letters that are counted apart."""
_WINDOW_STEPS = WINDOW_SECONDS // STEP_SECONDS


@dataclass(frozen=True, slots=True)
class AnsweredClick:
    """One answered click."""

    time_ms: float
    user_id: str
    item_id: str
    rank: int | None
    """Rank of its item in the shopper's list before, from 1; None if it was not in it."""
    judged: bool
    """Whether there was a list before."""


@dataclass
class Shopper:
    """State of one shopper."""

    answer: Recommendation
    last: AnsweredClick
    clicks: int = 0
    judged: int = 0
    hits: int = 0
    lists: dict[str, set[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the charts: STEP_SECONDS of the stream."""

    time_ms: float
    clicks_per_second: float
    answers_per_second: float
    latency_ms: tuple[float, float] | None
    """p50, p99; None if there was no answer."""
    lag: int | None
    hit_rates: dict[str, float]
    """Method → HR@10 over the last WINDOW_SECONDS; empty if no list was judged."""


@dataclass
class VersionCounts:
    """What the answers said about one model version."""

    first_answer_ms: float
    judged: int = 0
    hits: int = 0


@dataclass
class _Step:
    clicks: int = 0
    answers: int = 0
    judged: int = 0
    hits: Counter[str] = field(default_factory=Counter)


class Stream:
    """State of the last POINTS · STEP_SECONDS seconds."""

    def __init__(self, baselines: dict[str, TopItems], max_per_minute: int = 60) -> None:
        """baselines: name → method that the model is compared with.

        max_per_minute: who clicks more often within a minute is counted as a bot; 0: nobody.
        """
        self.baselines = baselines
        self.max_per_minute = max_per_minute
        self.shoppers: OrderedDict[str, Shopper] = OrderedDict()
        self.newest: deque[AnsweredClick] = deque(maxlen=NEWEST)
        self.points: deque[Point] = deque(maxlen=POINTS)
        self.versions: OrderedDict[str, VersionCounts] = OrderedDict()
        self.dead_letters: Counter[str] = Counter()
        self.anomalies: Counter[str] = Counter()
        """Kind → clicks, as in click_rules.REMEDIES, and `unknown_item`."""
        self.bots: Counter[str] = Counter()
        """Users above max_per_minute → their clicks in the fastest minute; the 20 fastest."""
        self.clicks = 0
        self.answers = 0
        self.doubled = 0
        self._answered: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._partitions: OrderedDict[str, int] = OrderedDict()
        self._minute: Counter[str] = Counter()
        self._minute_seconds = 0.0
        self._steps: deque[_Step] = deque(maxlen=POINTS)
        self._latencies: deque[list[float]] = deque(maxlen=_WINDOW_STEPS)
        self._step = _Step()
        self._step_latencies: list[float] = []

    def add_clicks(self, clicks: Sequence[tuple[Click, int]]) -> None:
        """Count clicks, each with its partition."""
        self.clicks += len(clicks)
        self._step.clicks += len(clicks)
        for click, partition in clicks:
            user = click.user_id
            if user in self._minute or len(self._minute) < USERS_COUNTED:
                self._minute[user] += 1
            before = self._partitions.pop(user, partition)
            self.anomalies["user_on_several_partitions"] += before != partition
            _remember(self._partitions, user, partition, USERS_COUNTED)

    def add_anomalies(self, counts: Mapping[str, int]) -> None:
        """Count unusual clicks by kind."""
        self.anomalies.update(counts)

    def add_dead_letters(self, reasons: Sequence[str]) -> None:
        """Count dead letters by reason."""
        for reason in reasons:  # of a header, which may hold anything
            known = reason in self.dead_letters or len(self.dead_letters) < REASONS
            self.dead_letters[reason if known else "other"] += 1

    def add_answers(self, answers: Sequence[Recommendation], visible_ms: Sequence[float]) -> None:
        """Add answers, in stream order. visible_ms: when each was on the topic, epoch ms."""
        baselines = {name: method(answers) for name, method in self.baselines.items()}
        for i, (answer, visible) in enumerate(zip(answers, visible_ms, strict=True)):
            key = answer.user_id, answer.event_id
            if key in self._answered:
                self.doubled += 1
                continue
            _remember(self._answered, key, None, ANSWERS_KEPT)
            self.answers += 1
            self._step.answers += 1
            self._step_latencies.append(max(0.0, visible - answer.click_timestamp))
            version = base_of(answer.model_version)
            if version not in self.versions:
                _remember(self.versions, version, VersionCounts(visible), 50)
            shopper = self.shoppers.pop(answer.user_id, None)
            seen = self._judge(shopper, answer, visible)
            self.newest.append(seen)
            after = shopper or Shopper(answer, seen)
            after.answer, after.last = answer, seen
            after.clicks += 1
            after.judged += seen.judged
            after.hits += seen.rank is not None
            after.lists = {name: lists[i] for name, lists in baselines.items()}
            _remember(self.shoppers, answer.user_id, after, SHOPPERS)

    def end_step(self, now_ms: float, lag: int | None, seconds: float = STEP_SECONDS) -> None:
        """Add a point for the `seconds` since the last one."""
        step, self._step = self._step, _Step()
        latencies, self._step_latencies = self._step_latencies, []
        self._steps.append(step)
        self._end_minute(seconds)
        self._latencies.append(latencies)
        judged, hits = _judged(list(self._steps)[-_WINDOW_STEPS:])
        self.points.append(
            Point(
                now_ms,
                step.clicks / seconds,
                step.answers / seconds,
                _percentiles(latencies),
                lag,
                {name: hits[name] / judged for name in self._methods} if judged else {},
            )
        )

    def hit_rates(self) -> tuple[int, dict[str, tuple[float, float, float]]]:
        """Judged lists of all points, and per method HR@10 with its 95 % interval."""
        judged, hits = _judged([*self._steps, self._step])
        return judged, {n: wilson(hits[n], judged) for n in self._methods} if judged else {}

    def latency_ms(self) -> tuple[float, float] | None:
        """p50 and p99 over the last WINDOW_SECONDS; None without an answer."""
        return _percentiles([ms for step in self._latencies for ms in step])

    @property
    def _methods(self) -> tuple[str, ...]:
        return ("model", *self.baselines)

    def _end_minute(self, seconds: float) -> None:
        self._minute_seconds += seconds
        if self.max_per_minute:
            for user, clicks in self._minute.most_common(20):
                if clicks > self.max_per_minute:
                    self.bots[user] = max(self.bots[user], clicks)
            self.bots = Counter(dict(self.bots.most_common(20)))
        if self._minute_seconds >= 60:
            self._minute_seconds = 0.0
            self._minute.clear()

    def _judge(
        self, shopper: Shopper | None, answer: Recommendation, now_ms: float
    ) -> AnsweredClick:
        item = answer.history[-1]
        if shopper is None:
            return AnsweredClick(now_ms, answer.user_id, item, None, judged=False)
        listed = [scored.item_id for scored in shopper.answer.items[:K]]
        rank = listed.index(item) + 1 if item in listed else None
        self._step.judged += 1
        self._step.hits["model"] += rank is not None
        if counts := self.versions.get(base_of(shopper.answer.model_version)):
            counts.judged += 1
            counts.hits += rank is not None
        for name, items in shopper.lists.items():
            self._step.hits[name] += item in items
        return AnsweredClick(now_ms, answer.user_id, item, rank, judged=True)


def wilson(hits: int, judged: int) -> tuple[float, float, float]:
    """A rate and its 95 % interval (Wilson, 1927): rate, low, high. judged: at least 1."""
    z, rate = 1.96, hits / judged
    centre = (rate + z * z / (2 * judged)) / (1 + z * z / judged)
    spread = z * math.sqrt(rate * (1 - rate) / judged + z * z / (4 * judged**2))
    spread /= 1 + z * z / judged
    return rate, max(0.0, centre - spread), min(1.0, centre + spread)


def _percentiles(latencies: Sequence[float]) -> tuple[float, float] | None:
    if not latencies:
        return None
    p50, p99 = np.percentile(latencies, [50, 99])
    return float(p50), float(p99)


def _judged(steps: Sequence[_Step]) -> tuple[int, Counter[str]]:
    """Judged lists of some steps, and the hits among them by method."""
    hits: Counter[str] = Counter()
    for step in steps:
        hits.update(step.hits)
    return sum(step.judged for step in steps), hits


def _remember(kept: OrderedDict[K_, V_], key: K_, value: V_, most: int) -> None:
    """Add a new key as the newest; drop the oldest one if there are more than `most`."""
    kept[key] = value
    if len(kept) > most:
        kept.popitem(last=False)
