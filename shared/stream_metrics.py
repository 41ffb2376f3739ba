"""Live metrics from joining the topics `clicks` and `recommendations`, for the demo. Pure.

Counts, latencies, and the hit rate: how often a user's next click was in the list that answered
the click before it, for the model and for baselines on the same clicks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from nextclick.shared.schemas import Recommendation
from nextclick.shared.version_names import base_of

K = 10
"""Items of a list that count for hit rates."""

TopItems = Callable[[Sequence[Recommendation]], list[set[str]]]
"""A baseline: for each answer, the k items that the baseline recommends after its history."""


@dataclass
class StreamMetrics:
    """Totals since the start."""

    baselines: dict[str, TopItems]
    """Name → baseline that the model is compared with."""
    k: int = K
    clicks: set[str] = field(default_factory=set)
    """event_ids seen on the clicks topic."""
    answered: Counter[str] = field(default_factory=Counter)
    """Answers seen per event_id."""
    latencies_ms: list[float] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    """Model versions in order of their first answer."""
    judged: int = 0
    """Answers after which the user clicked again."""
    hits: Counter[str] = field(default_factory=Counter)
    """Per method: how many of the judged lists held that next click."""
    _lists: dict[str, dict[str, set[str]]] = field(default_factory=dict)

    def add_clicks(self, event_ids: Sequence[str]) -> None:
        """Record clicks that were sent."""
        self.clicks.update(event_ids)

    def add_answers(self, answers: Sequence[Recommendation], arrived_ms: Sequence[float]) -> None:
        """Record answers, in stream order. arrived_ms: arrival times, epoch milliseconds."""
        baselines = {name: method(answers) for name, method in self.baselines.items()}
        for i, answer in enumerate(answers):
            self.answered[answer.event_id] += 1
            if self.answered[answer.event_id] > 1:
                continue
            self.latencies_ms.append(arrived_ms[i] - answer.click_timestamp)
            if (version := base_of(answer.model_version)) not in self.versions:
                self.versions.append(version)
            earlier = self._lists.get(answer.user_id)
            if earlier is not None:  # this click follows a list: was its item in the list?
                self.judged += 1
                for name, items in earlier.items():
                    self.hits[name] += answer.history[-1] in items
            self._lists[answer.user_id] = {
                "model": {item.item_id for item in answer.items[: self.k]},
                **{name: lists[i] for name, lists in baselines.items()},
            }

    @property
    def missing(self) -> int:
        """Clicks without an answer."""
        return len(self.clicks - self.answered.keys())

    @property
    def duplicates(self) -> int:
        """Answers beyond the first to the same click."""
        return self.answered.total() - len(self.answered)

    @property
    def swaps(self) -> int:
        """Model changes seen in the answers."""
        return max(0, len(self.versions) - 1)

    def latency_ms(self, newest: int | None = None) -> dict[str, float]:
        """p50, p90, p99 from click to arrival, of all or of the `newest` answers; {} if none."""
        values = self.latencies_ms if newest is None else self.latencies_ms[-newest:]
        if not values:
            return {}
        p50, p90, p99 = np.percentile(values, [50, 90, 99])
        return {"p50": round(p50, 1), "p90": round(p90, 1), "p99": round(p99, 1)}

    def hit_rates(self) -> dict[str, float]:
        """HR@k of the next click, per method; {} if no answer is judged yet."""
        if not self.judged:
            return {}
        return {
            name: round(self.hits[name] / self.judged, 4) for name in ("model", *self.baselines)
        }
