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
from dataclasses import dataclass

from nextclick.shared.errors import CheckpointError, NextclickError
from nextclick.shared.model import Checkpoint
from nextclick.shared.model.checkpoint import WEIGHTS
from nextclick.shared.registry import Registry
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.background import BackgroundThread
from nextclick.shared.runtime.rate_limit import RateLimit
from nextclick.shared.runtime.settings import Settings
from nextclick.trainer.collect import EventLog, LogState
from nextclick.trainer.data import bound_contributions, click_log, weighted
from nextclick.trainer.learn.learning import learn

log = logging.getLogger(__name__)

COLUMNS = ("user_id", "item_id", "timestamp", "event_type")
LEAST_CLICKS = 2_000
"""Newest clicks that are read even if they are older than the base, as histories of the new ones.
Unless the base was refitted they are counted, too: it did not learn each user's newest ones."""
MAX_CLICKS = 50_000
"""Most clicks that are counted, the newest."""
_STOP_SECONDS = 20.0


@dataclass(frozen=True)
class _Base:
    version: str
    sha256: str
    checkpoint: Checkpoint
    trained_on: LogState
    refitted: bool
    """Whether it learned all clicks until then."""


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
        self._base: _Base | None = None
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
            self._base, self._learned = self._load(pointer.version, state), None
        base = self._base
        new = state.new_since(base.trained_on)
        if state == self._learned or new == 0:
            return None
        number = self._publish(base, state, new)
        self._learned = state
        return number

    def _load(self, version: str, state: LogState) -> _Base:
        manifest = self._registry.manifest(version)
        try:
            trained_on = LogState(**manifest.training["event_log"])
        except (KeyError, TypeError):  # published otherwise
            trained_on = state
        checkpoint = self._registry.load(version)
        refitted = "refit" in manifest.training
        return _Base(version, manifest.files[WEIGHTS], checkpoint, trained_on, refitted)

    def _publish(self, base: _Base, state: LogState, new: int) -> int | None:
        began = time.monotonic()
        clicks = self._settings.clicks
        tombstones = self._event_log.tombstones()  # before the clicks: never more than they know
        frame = self._event_log.read(min(MAX_CLICKS, max(LEAST_CLICKS, new)), COLUMNS)
        frame = weighted(frame, clicks.event_weights, clicks.label_weights)
        frame, _ = bound_contributions(frame, clicks.max_per_minute)
        gap_ms = int(self._settings.session.gap_seconds * 1000)
        newest = max(self._registry.delta_numbers(base.version), default=0)
        delta = learn(
            click_log(frame, gap_ms, validation=0, test=0),
            base.checkpoint,
            base.version,
            base.sha256,
            max(int(self._now()), newest + 1),
            tombstones.count,
            new if base.refitted else None,
        )
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
