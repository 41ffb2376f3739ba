"""What the page shows, worked out from what passes by on the topics. Pure, and bounded in memory.

Seen from outside, as `shared/stream_metrics.py` sees it: an answer's latency is from its click's
timestamp until it was read here, and a hit is a click that was on the list its shopper had been
given.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from nextclick.shared.schemas import Recommendation
from nextclick.shared.stream_metrics import K, TopItems

STEP_SECONDS = 2
"""A point on the charts stands for so long."""
POINTS = 300
"""Points kept: ten minutes."""
HIT_RATE_SECONDS = 60
"""Hit rates are over so long, that their lines are calm."""
SHOPPERS = 300
"""Shoppers kept, the newest; a list is judged if its shopper is still here."""
NEWEST = 40
"""Clicks kept of the stream itself."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One answered click as it passed by."""

    time_ms: float
    user_id: str
    item_id: str
    rank: int | None
    """Its place on the list of before, from 1; None if it was not on it."""
    judged: bool
    """Whether there was a list before."""


@dataclass
class Shopper:
    """What is known of a shopper."""

    answer: Recommendation
    last: Seen
    clicks: int = 0
    judged: int = 0
    hits: int = 0
    lists: dict[str, set[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Point:
    """STEP_SECONDS of the stream."""

    time_ms: float
    clicks_per_second: float
    answers_per_second: float
    latency_ms: tuple[float, float, float] | None
    """p50, p90, p99; None without an answer."""
    lag: int | None
    hit_rates: dict[str, float]
    """By method, over the last HIT_RATE_SECONDS; empty where no list was judged."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something on the time axis."""

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
    """The last minutes."""

    def __init__(self, baselines: dict[str, TopItems]) -> None:
        """baselines: what the model is compared with, by name."""
        self.baselines = baselines
        self.shoppers: OrderedDict[str, Shopper] = OrderedDict()
        self.newest: deque[Seen] = deque(maxlen=NEWEST)
        self.points: deque[Point] = deque(maxlen=POINTS)
        self.marks: deque[Mark] = deque(maxlen=50)
        self.dead: Counter[str] = Counter()
        self.clicks = 0
        self.answers = 0
        self.version: str | None = None
        """Of the newest answer."""
        self._seen_versions: set[str] = set()
        self._steps: deque[_Step] = deque(maxlen=HIT_RATE_SECONDS // STEP_SECONDS)
        self._step = _Step()

    def add_clicks(self, count: int) -> None:
        """Note that clicks were sent."""
        self.clicks += count
        self._step.clicks += count

    def add_dead(self, reasons: Sequence[str]) -> None:
        """Note dead letters."""
        self.dead.update(reasons)

    def add_mark(self, mark: Mark) -> None:
        """Put a mark on the time axis."""
        self.marks.append(mark)

    def add_answers(self, answers: Sequence[Recommendation], arrived_ms: float) -> None:
        """Note answers, in stream order, that were read at one moment."""
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
        """Make a point of what came since the last one, `seconds` ago."""
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
            # Two workers that swap one after the other answer by both for a moment: one mark.
            if not any(m.text == text and now_ms - m.time_ms < 3000 for m in self.marks):
                self.add_mark(Mark(now_ms, "rollback" if again else "swap", text))
        self.version = version
        self._seen_versions.add(version)

    def _judge(self, shopper: Shopper | None, answer: Recommendation, now_ms: float) -> Seen:
        item = answer.history[-1]
        if shopper is None:
            return Seen(now_ms, answer.user_id, item, None, judged=False)
        listed = [scored.item_id for scored in shopper.answer.items[:K]]
        rank = listed.index(item) + 1 if item in listed else None
        self._step.judged += 1
        self._step.hits["model"] += rank is not None
        for name, items in shopper.lists.items():
            self._step.hits[name] += item in items
        return Seen(now_ms, answer.user_id, item, rank, judged=True)
