"""How far a process is behind on the clicks, as a metric, from a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from nextclick.shared.errors import NextclickError
from nextclick.shared.kafka import LagMonitor
from nextclick.shared.runtime import metrics

EVERY_SECONDS = 5.0


class LagWatch:
    """Keeps `nextclick_consumer_lag` up to date for the partitions that are this process's own.

    So the sum over all workers is the lag of the group.
    """

    def __init__(self, monitor: LagMonitor, assigned: Callable[[], Iterable[int]]) -> None:
        """`assigned` returns the process's partitions at that moment."""
        self._monitor = monitor
        self._assigned = assigned
        self._shown: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lag", daemon=True)

    def start(self) -> None:
        """Begin to measure, every EVERY_SECONDS."""
        self._thread.start()

    def stop(self) -> None:
        """Measure no more; what is under way, if Kafka is away some seconds, is not waited for."""
        self._stop.set()

    def measure(self) -> None:
        """Measure once. While Kafka does not answer no lag is shown, rather than an old one."""
        try:
            lags = self._monitor.lags()
        except NextclickError:  # /readyz says so
            lags = {}
        shown = {partition for partition in self._assigned() if partition in lags}
        for partition in shown:
            metrics.CONSUMER_LAG.labels(str(partition)).set(lags[partition])
        for partition in self._shown - shown:
            metrics.CONSUMER_LAG.remove(str(partition))
        self._shown = shown

    def _watch(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            self.measure()
