"""The state of the page as JSON: what the stream, the registry and the catalogue say."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any

from nextclick.services.api.components import Components
from nextclick.services.api.page.feed import Feed
from nextclick.services.api.page.stream import AnsweredClick, Point, Stream
from nextclick.services.api.page.versions import Versions
from nextclick.shared.click_rules import REMEDIES
from nextclick.shared.errors import NextclickError
from nextclick.shared.stream_metrics import K

POINTS_PER_TICK = 5
"""Newest points in each event; who missed an event or two still gets all."""
SHOPPERS_SHOWN = 8
CLICKS_SHOWN = 12
READ_REGISTRY_SECONDS = 2.0

HEALTH = {
    **REMEDIES,
    "unknown_item": "clicks on items that the served model does not know; the next retraining "
    "learns them",
}
"""Kind of anomaly → what to do about it."""


class State:
    """Puts the state together. Thread-safe."""

    def __init__(self, components: Components, feed: Feed) -> None:
        self._components = components
        self._feed = feed
        self._versions = Versions(components.registry, components.slot)
        self._models: dict[str, Any] = {}
        self._models_error = ""
        self._read_at = -READ_REGISTRY_SECONDS
        self._reading = threading.Lock()

    def content(self, everything: bool) -> dict[str, Any]:
        """The state; without `everything`, only the newest points of the charts."""
        stream = self._feed.watch()
        self._read_registry()
        with self._feed.lock:
            content = self._of_stream(stream, everything)
        content["now"] = time.time() * 1000
        content["error"] = self._feed.error or self._models_error
        content["models"] = self._models
        items = [click["item"] for click in content["newest"]]
        content["titles"] = self.titles(items)
        return content

    def shopper(self, user_id: str) -> dict[str, Any] | None:
        """A shopper of the stream, with the newest answer; None if they did not click lately."""
        with self._feed.lock:
            found = self._feed.stream.shoppers.get(user_id)
            if found is None:
                return None
            answer, last = found.answer, found.last
            counts = {"clicks": found.clicks, "judged": found.judged, "hits": found.hits}
        items = [{"id": item.item_id, "score": item.score} for item in answer.items[:K]]
        return counts | {
            "user_id": user_id,
            "version": answer.model_version,
            "history": answer.history,
            "items": items,
            "rank": last.rank,
            "titles": self.titles([*answer.history, *(i.item_id for i in answer.items[:K])]),
        }

    def titles(self, item_ids: Iterable[str]) -> dict[str, str]:
        """The titles of those items that have one."""
        known = self._components.titles
        return {item: known[item] for item in item_ids if item in known}

    def _read_registry(self) -> None:
        with self._reading:
            if time.monotonic() - self._read_at < READ_REGISTRY_SECONDS:
                return
            try:
                self._models, self._models_error = self._versions.read(), ""
            except NextclickError as error:
                self._models_error = str(error)
            self._read_at = time.monotonic()

    def _of_stream(self, stream: Stream, everything: bool) -> dict[str, Any]:
        points = list(stream.points) if everything else list(stream.points)[-POINTS_PER_TICK:]
        judged, rates = stream.hit_rates()
        busiest = sorted(stream.shoppers.items(), key=lambda s: -s[1].clicks)[:SHOPPERS_SHOWN]
        return {
            "judged": judged,
            "hit_rates": rates,
            "points": [_point(point) for point in points],
            "latency": stream.latency_ms(),
            "clicks": stream.clicks,
            "answers": stream.answers,
            "doubled": stream.doubled,
            "dead_letters": dict(stream.dead_letters.most_common(20)),
            "anomalies": [
                {"kind": kind, "clicks": clicks, "remedy": HEALTH.get(kind, "")}
                for kind, clicks in stream.anomalies.most_common()
                if clicks
            ],
            "bots": dict(stream.bots.most_common(5)),
            "max_per_minute": stream.max_per_minute,
            "first_answers": [
                {"version": v, "at": c.first_answer_ms, "judged": c.judged, "hits": c.hits}
                for v, c in stream.versions.items()
            ],
            "shoppers": [
                {"user": user, "clicks": s.clicks, "judged": s.judged, "hits": s.hits}
                for user, s in busiest
            ],
            "newest": [_click(click) for click in list(stream.newest)[-CLICKS_SHOWN:]],
        }


def _point(point: Point) -> dict[str, Any]:
    return {
        "at": round(point.time_ms),
        "clicks": round(point.clicks_per_second, 1),
        "answers": round(point.answers_per_second, 1),
        "latency": [round(ms, 1) for ms in point.latency_ms] if point.latency_ms else None,
        "lag": point.lag,
        "hits": {name: round(rate, 4) for name, rate in point.hit_rates.items()},
    }


def _click(click: AnsweredClick) -> dict[str, Any]:
    return {
        "at": round(click.time_ms),
        "user": click.user_id,
        "item": click.item_id,
        "rank": click.rank,
        "judged": click.judged,
    }
