"""The state of the page, computed from the messages on the topics. Pure, and bounded in memory.

Latency is from a click's timestamp until its answer is read here. A hit is a click on an item of
the list that the shopper got before. Both as in `shared/stream_metrics.py`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from nextclick.shared.schemas import Recommendation
from nextclick.shared.stream_metrics import K, TopItems

STEP_SECONDS = 2
"""Time span of one point of the charts."""
POINTS = 300
"""Points kept: ten minutes."""
HIT_RATE_SECONDS = 60
"""Window of the hit rates; shorter ones are noisy."""
SHOPPERS = 300
"""Shoppers kept, by newest click; only their lists can be judged."""
NEWEST = 40
"""Newest clicks kept."""


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
    latency_ms: tuple[float, float, float] | None
    """p50, p90, p99; None if there was no answer."""
    lag: int | None
    hit_rates: dict[str, float]
    """Method → HR@10 over the last HIT_RATE_SECONDS; empty if no list was judged."""


@dataclass(frozen=True, slots=True)
class Mark:
    """An event on the time axis."""

    time_ms: float
    kind: str
    """swap, refusal or rollback."""
    text: str


@dataclass
class _Step:
    clicks: int = 0
    answers: int = 0
    latencies: list[float] = field(default_factory=list)
    judged: int = 0
    hits: Counter[str] = field(default_factory=Counter)


class Stream:
    """State of the last POINTS · STEP_SECONDS seconds."""

    def __init__(self, baselines: dict[str, TopItems]) -> None:
        """baselines: name → method that the model is compared with."""
        self.baselines = baselines
        self.shoppers: OrderedDict[str, Shopper] = OrderedDict()
        self.newest: deque[AnsweredClick] = deque(maxlen=NEWEST)
        self.points: deque[Point] = deque(maxlen=POINTS)
        self.marks: deque[Mark] = deque(maxlen=50)
        self.dead_letters: Counter[str] = Counter()
        self.clicks = 0
        self.answers = 0
        self.version: str | None = None
        """Model version of the newest answer."""
        self._seen_versions: set[str] = set()
        self._steps: deque[_Step] = deque(maxlen=HIT_RATE_SECONDS // STEP_SECONDS)
        self._step = _Step()

    def add_clicks(self, count: int) -> None:
        """Count clicks."""
        self.clicks += count
        self._step.clicks += count

    def add_dead_letters(self, reasons: Sequence[str]) -> None:
        """Count dead letters by reason."""
        self.dead_letters.update(reasons)

    def add_mark(self, mark: Mark) -> None:
        """Put a mark on the time axis."""
        self.marks.append(mark)

    def add_answers(self, answers: Sequence[Recommendation], arrived_ms: float) -> None:
        """Add answers, in stream order. arrived_ms: when they were read, epoch ms."""
        baselines = {name: method(answers) for name, method in self.baselines.items()}
        for i, answer in enumerate(answers):
            self.answers += 1
            self._step.answers += 1
            self._step.latencies.append(arrived_ms - answer.click_timestamp)
            self._note_version(answer, arrived_ms)
            shopper = self.shoppers.pop(answer.user_id, None)
            seen = self._judge(shopper, answer, arrived_ms)
            self.newest.append(seen)
            after = shopper or Shopper(answer, seen)
            after.answer, after.last = answer, seen
            after.clicks += 1
            after.judged += seen.judged
            after.hits += seen.rank is not None
            after.lists = {name: lists[i] for name, lists in baselines.items()}
            self.shoppers[answer.user_id] = after
            if len(self.shoppers) > SHOPPERS:
                self.shoppers.popitem(last=False)

    def end_step(self, now_ms: float, lag: int | None, seconds: float = STEP_SECONDS) -> None:
        """Add a point for the `seconds` since the last one."""
        step, self._step = self._step, _Step()
        self._steps.append(step)
        judged = sum(s.judged for s in self._steps)
        hits = sum((s.hits for s in self._steps), Counter[str]())
        percentiles = None
        if step.latencies:
            p50, p90, p99 = np.percentile(step.latencies, [50, 90, 99])
            percentiles = (float(p50), float(p90), float(p99))
        self.points.append(
            Point(
                now_ms,
                step.clicks / seconds,
                step.answers / seconds,
                percentiles,
                lag,
                {n: hits[n] / judged for n in ("model", *self.baselines)} if judged else {},
            )
        )

    def _note_version(self, answer: Recommendation, now_ms: float) -> None:
        version = answer.model_version
        if version == self.version:
            return
        if self.version is not None:
            again = version in self._seen_versions
            text = f"back to {version}" if again else f"{version} serves"
            # While several workers swap, answers come from both versions: one mark for all.
            if not any(m.text == text and now_ms - m.time_ms < 3000 for m in self.marks):
                self.add_mark(Mark(now_ms, "rollback" if again else "swap", text))
        self.version = version
        self._seen_versions.add(version)

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
        for name, items in shopper.lists.items():
            self._step.hits[name] += item in items
        return AnsweredClick(now_ms, answer.user_id, item, rank, judged=True)
