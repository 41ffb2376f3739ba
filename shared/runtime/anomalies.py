"""Counts and logs the anomalies of clicks; see `click_rules`."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict

from nextclick.shared.click_rules import REMEDIES, ClickRules, TimeBounds
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.rate_limit import RateLimit
from nextclick.shared.runtime.settings import ClickSettings
from nextclick.shared.schemas import ReadFramed

log = logging.getLogger(__name__)


def time_bounds(settings: ClickSettings) -> TimeBounds:
    """The bounds that the settings say."""
    return TimeBounds(settings.max_age_seconds * 1000, settings.max_ahead_seconds * 1000)


def click_rules(settings: ClickSettings, read_framed: ReadFramed | None = None) -> ClickRules:
    """The rules that the settings say; anomalies are counted and logged.

    read_framed: see ClickRules.
    """
    return ClickRules(settings.event_weights, time_bounds(settings), Anomalies().add, read_framed)


class Anomalies:
    """Counts what is unusual about clicks; logs each kind once a minute, with the number since."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._limits: dict[str, RateLimit] = defaultdict(RateLimit)

    def add(self, kind: str, partition: int, offset: int) -> None:
        """Count a message of the clicks topic. kind: a key of REMEDIES."""
        metrics.CLICK_ANOMALIES.labels(kind).inc()
        self._counts[kind] += 1
        if self._limits[kind].allow():
            log.warning(
                "%d %s (the last one: partition %d, offset %d)",
                self._counts.pop(kind),
                REMEDIES[kind],
                partition,
                offset,
                extra={"reason": kind, "partition": partition, "offset": offset},
            )
