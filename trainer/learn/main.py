"""The learner: a thread of the trainer's that publishes deltas of the served version.

It looks at the event log only, so it counts each click once, whoever collects, and whatever dies;
and nobody who was forgotten. It counts from the log anew for each delta, so there is no state that
could differ from it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from nextclick.shared.errors import CheckpointError, NextclickError
from nextclick.shared.model.checkpoint import WEIGHTS
from nextclick.shared.registry import Registry
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.background import BackgroundThread
from nextclick.shared.runtime.rate_limit import RateLimit
from nextclick.shared.runtime.settings import Settings
from nextclick.trainer.collect import EventLog, LogState
from nextclick.trainer.learn.learning import Base, Counting, clicks_to_read, learn_newest

log = logging.getLogger(__name__)

COLUMNS = ("user_id", "item_id", "timestamp", "event_type")
_STOP_SECONDS = 20.0


class Learner:
    """Makes deltas of whatever version the registry points to."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        event_log: EventLog,
        now: Callable[[], float] = time.time,
    ) -> None:
        """now: epoch seconds."""
        self._settings = settings
        self._registry = registry
        self._event_log = event_log
        self._now = now
        clicks = settings.clicks
        self._counting = Counting(
            int(settings.session.gap_seconds * 1000),
            clicks.max_per_minute,
            clicks.event_weights,
            clicks.label_weights,
        )
        self._base: Base | None = None
        self._trained_on: LogState | None = None
        """The state of the log when the base was trained."""
        self._learned: LogState | None = None
        """The state of the log at the newest delta of the base."""

    def step(self) -> int | None:
        """Publish a delta if there are new clicks; returns its number.

        Raises CheckpointError if the served version cannot be loaded, and Unavailable.
        """
        pointer = self._registry.pointer()
        if pointer is None:
            return None
        state = self._event_log.state()
        if self._base is None or self._base.version != pointer.version:
            self._base, self._trained_on = self._load(pointer.version, state)
            self._learned = None
        base, trained_on = self._base, self._trained_on
        assert trained_on is not None
        new = state.new_since(trained_on)
        if state == self._learned or new == 0:
            return None
        number = self._publish(base, new)
        self._learned = state
        return number

    def _load(self, version: str, state: LogState) -> tuple[Base, LogState]:
        manifest = self._registry.manifest(version)
        try:
            trained_on = LogState(**manifest.training["event_log"])
        except (KeyError, TypeError):  # published otherwise
            trained_on = state
        checkpoint = self._registry.load(version)
        refitted = "refit" in manifest.training
        return Base(version, manifest.files[WEIGHTS], checkpoint, refitted), trained_on

    def _publish(self, base: Base, new: int) -> int | None:
        began = time.monotonic()
        tombstones = self._event_log.tombstones()  # before the clicks: never more than they know
        frame = self._event_log.read(clicks_to_read(new), COLUMNS)
        newest = max(self._registry.delta_numbers(base.version), default=0)
        number = max(int(self._now()), newest + 1)
        delta = learn_newest(frame, base, new, number, self._counting, tombstones.count)
        if delta is None:
            return None
        forgotten = newest > 0 and self._forget_count(base.version, newest) != tombstones.count
        self._registry.publish_delta(delta)
        metrics.DELTAS.labels("published").inc()
        # Who has just read that `newest` is the newest must find it. But older deltas may know who
        # was forgotten since.
        keep_from = min(newest, delta.number - int(self._settings.registry.keep_delta_seconds))
        self._registry.prune_deltas(base.version, delta.number if forgotten else keep_from)
        metrics.DELTA_SECONDS.observe(time.monotonic() - began)
        return delta.number

    def _forget_count(self, version: str, number: int) -> int:
        try:
            return self._registry.load_delta(version, number).forget_count
        except CheckpointError:
            return -1


def learner_thread(learner: Learner, seconds: float) -> BackgroundThread:
    """Learns in a thread of its own.

    seconds: between the ends of two steps; more if a step takes longer.
    """

    def run(stop: threading.Event) -> None:
        warnings, took = RateLimit(), 0.0
        while not stop.wait(max(seconds, took)):
            began = time.monotonic()
            try:
                learner.step()
            except NextclickError as error:  # the next step tries again
                if warnings.allow():
                    log.warning("no delta was published: %s", error)
            took = time.monotonic() - began

    return BackgroundThread("learner", run, stop_seconds=_STOP_SECONDS)
