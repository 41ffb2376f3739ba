"""Measures the consumer lag of a process as a metric, in a background thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from nextclick.shared.errors import NextclickError
from nextclick.shared.kafka import LagMonitor
from nextclick.shared.runtime import metrics

EVERY_SECONDS = 5.0


class LagWatch:
    """Updates `nextclick_consumer_lag` for the partitions assigned to this process.

    The sum over all workers is the lag of the group.
    """

    def __init__(self, monitor: LagMonitor, assigned: Callable[[], Iterable[int]]) -> None:
        """`assigned` returns the process's partitions at that moment."""
        self._monitor = monitor
        self._assigned = assigned
        self._shown: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lag", daemon=True)

    def start(self) -> None:
        """Measure every EVERY_SECONDS from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop measuring, without waiting for a measurement in progress."""
        self._stop.set()

    def measure(self) -> None:
        """Measure once. While Kafka does not answer, the metric is removed."""
        try:
            lags = self._monitor.lags()
        except NextclickError:  # /readyz reports it
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
