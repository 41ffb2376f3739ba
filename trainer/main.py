"""The trainer process: collect clicks into the event log, retrain when due.

One flat loop and one thread. While a fit runs, clicks wait on Kafka; the loop catches up
afterwards. The consumer is alone in its group in most shops, and its poll interval allows for
any fit.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from shared import metrics
from shared.device import select_device
from shared.errors import (
    BadClick,
    CommitRefused,
    ConfigurationError,
    NextclickError,
    Unavailable,
)
from shared.heartbeat import HEART
from shared.kafka import ClickConsumer, ensure_topics, offsets_held
from shared.messages import Message, offsets_after
from shared.patience import Patience, Stopped
from shared.registry import Registry
from shared.schemas import decode_click
from shared.settings import Settings, TrainerSettings
from trainer import health, ranks
from trainer.event_log import EventLog
from trainer.presets import Preset, preset
from trainer.ranks import Ranks
from trainer.retrain import FitLimits, Outcome, fit_along, retrain

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
FLUSH_MESSAGES = 20_000
AROUND_A_FIT_SECONDS = 3600.0
"""A retraining that takes longer than its fit may and this is stuck; the rest of it has no cap."""


@dataclass
class Collector:
    """Moves clicks from the topic into the event log: files first, then offsets."""

    consumer: ClickConsumer
    event_log: EventLog
    patiently: Patience
    flush_seconds: float
    clock: Callable[[], float] = time.monotonic
    new_clicks: int = 0
    """Clicks logged since the last retraining."""
    _waiting: list[Message] = field(default_factory=list)
    _flushed_at: float | None = None

    def step(self) -> None:
        """Read what is there and write it out when it is due."""
        self._waiting += self.consumer.poll(FLUSH_MESSAGES, POLL_SECONDS)
        if self._flushed_at is None:
            self._flushed_at = self.clock()
        HEART.beat()
        due = self.clock() - self._flushed_at >= self.flush_seconds
        if due or len(self._waiting) >= FLUSH_MESSAGES:
            self.flush()

    def flush(self) -> None:
        """Make everything read so far durable, then commit its offsets."""
        self._flushed_at = self.clock()
        by_partition: dict[int, list[Message]] = {}
        for message in self._waiting:
            by_partition.setdefault(message.partition, []).append(message)
        for partition, messages in by_partition.items():
            rows = [row for message in messages if (row := _row(message)) is not None]
            self.patiently(
                self.event_log.append, partition, messages[0].offset, messages[-1].offset, rows
            )
            self.new_clicks += len(rows)
            metrics.LOGGED_CLICKS.inc(len(rows))
        if self._waiting:
            try:
                self.patiently(self.consumer.commit_now, offsets_after(self._waiting))
            except CommitRefused as refused:  # reading goes on after the files, whoever reads
                log.warning("%s", refused)
        self._waiting = []


def _row(message: Message) -> tuple[str, str, str, int] | None:
    try:
        click = decode_click(message.value)
    except BadClick:  # the worker dead-letters it
        return None
    return click.event_id, click.user_id, click.item_id, click.timestamp


def run(settings: Settings, stop: threading.Event, *, once: bool = False) -> Outcome | None:
    """Collect and retrain until `stop` is set; with `once`, catch up, retrain once, return.

    Started by torchrun, rank 0 does this; the other ranks only fit along.
    Raises ConfigurationError or Unavailable if Kafka, the event log, the registry or the device
    is not usable at the start; RankLost if another rank is gone.
    """
    ours = settings.trainer
    recipe = preset(ours.preset)
    if recipe.sampling != "temporal":
        raise ConfigurationError(
            f"NEXTCLICK_TRAINER__PRESET = {ours.preset!r} trains on what it is tested with; "
            "it reproduces the source's figures (nextclick evaluate source --preset source_table) "
            "and serves nobody"
        )
    with ranks.joined() as among:
        cores = (os.cpu_count() or 1) // among.local_world
        torch.set_num_threads(ours.torch_threads or max(1, cores))
        device = select_device(settings.device)
        if device.type == "cuda" and device.index is None and among.world > 1:
            device = torch.device("cuda", among.local_rank)
        limits = FitLimits(ours.seed, ours.max_epochs, ours.max_fit_seconds)
        if among.rank:
            log.info("rank %d of %d: fitting along on %s", among.rank, among.world, device)
            gap_ms = int(settings.session.gap_seconds * 1000)
            fit_along(among, recipe, limits, gap_ms=gap_ms, device=device)
            return None
        outcome = _lead(settings, stop, recipe, limits, device, among, once=once)
        among.dismiss()
        return outcome


def _lead(
    settings: Settings,
    stop: threading.Event,
    recipe: Preset,
    limits: FitLimits,
    device: torch.device,
    among: Ranks,
    *,
    once: bool,
) -> Outcome | None:
    ours = settings.trainer
    registry = Registry(settings.registry.url)
    registry.check_writable()
    event_log = EventLog(ours.event_log)
    ensure_topics(settings.kafka, [settings.kafka.clicks_topic])

    def retrain_now() -> Outcome | None:
        held = event_log.count()
        if held < ours.min_clicks:
            log.info("%d clicks logged, too few to train on (want %d)", held, ours.min_clicks)
            return None
        HEART.beat(within=ours.max_fit_seconds + AROUND_A_FIT_SECONDS)
        log.info("retraining on %d clicks", min(held, ours.window_clicks))
        outcome = retrain(
            event_log.read(newest=ours.window_clicks),
            registry,
            recipe,
            limits,
            gap_ms=int(settings.session.gap_seconds * 1000),
            device=device,
            stopped=stop.is_set,
            ranks=among,
        )
        if outcome is not None:
            published = outcome.version is not None
            metrics.RETRAINS.labels("published" if published else "refused").inc()
            if not published:
                metrics.GATE_REFUSALS.labels(outcome.refusal).inc()
                _note_refusal(registry, outcome.reason)
            verdict = f"published {outcome.version}" if published else "refused the candidate"
            about = {
                "outcome": "published" if published else "refused",
                "model_version": outcome.version,
                "reason": outcome.refusal or None,
                "seconds": round(outcome.seconds, 1),
            }
            log.info("%s after %.1f s: %s", verdict, outcome.seconds, outcome.reason, extra=about)
        return outcome

    kafka, topic = settings.kafka, settings.kafka.clicks_topic
    consumer = ClickConsumer(
        kafka,
        topic,
        ours.group_id,
        # By a client of its own: within a rebalance the consumer must not be called.
        seek=lambda partitions: _starts(event_log, offsets_held(kafka, topic), partitions),
        instance_id=ours.instance_id,
        bulk=True,
    )
    collector = Collector(consumer, event_log, Patience(stop, log), ours.flush_seconds)
    try:
        with health.served(settings, event_log, registry, consumer):
            if once:
                _catch_up(collector, stop)
                _tidy(event_log)
                return None if stop.is_set() else retrain_now()
            _collect_and_retrain(collector, ours, retrain_now, stop)
            collector.flush()
    except Stopped:
        log.info("stopped while waiting; what was read but not logged will be read again")
    finally:
        consumer.close()
    return None


def _note_refusal(registry: Registry, reason: str) -> None:
    try:
        registry.note_refusal(reason)
    except Unavailable as error:
        log.warning("the refusal is not noted: %s", error)


def _collect_and_retrain(
    collector: Collector,
    ours: TrainerSettings,
    retrain_now: Callable[[], Outcome | None],
    stop: threading.Event,
) -> None:
    last = time.monotonic()
    while not stop.is_set():
        collector.step()
        waited = time.monotonic() - last >= ours.every_seconds and collector.new_clicks > 0
        if waited or collector.new_clicks >= ours.every_clicks:
            collector.flush()
            collector.new_clicks = 0
            try:
                retrain_now()
            except Unavailable as error:  # the registry: the next retraining tries again
                log.error("this retraining is lost: %s", error, extra={"outcome": "lost"})
                metrics.RETRAINS.labels("lost").inc()
            _tidy(collector.event_log)
            last = time.monotonic()


def _catch_up(collector: Collector, stop: threading.Event) -> None:
    """Log every click that is on our partitions now."""
    consumer = collector.consumer
    while not stop.is_set() and not (
        consumer.assignment and consumer.assignment <= consumer.read_to_end
    ):
        collector.step()
    collector.flush()


def _tidy(event_log: EventLog) -> None:
    """Merge small files of the log. It can wait: whatever goes wrong is only said."""
    HEART.beat(within=AROUND_A_FIT_SECONDS)
    try:
        done = event_log.compact()
    except NextclickError as error:
        log.warning("the event log was not compacted: %s", error)
        return
    if done.rows_rewritten:
        log.info("event log: %d files became %d", done.files_before, done.files_after)


def _starts(
    event_log: EventLog, held: Mapping[int, range], partitions: Sequence[int]
) -> dict[int, int]:
    """Where reading goes on: after what the log holds.

    Raises ConfigurationError if the log holds offsets that the topic does not have: it belongs
    to another topic, or the topic was made anew.
    """
    starts = {}
    for partition in partitions:
        offset = event_log.next_offset(partition)
        if offset is None:
            starts[partition] = 0
        elif offset > (end := held.get(partition, range(0)).stop):
            raise ConfigurationError(
                f"the event log {event_log.folder} is ahead of the topic (partition {partition}: "
                f"{offset} > {end}), so it was written from another topic; "
                "set NEXTCLICK_TRAINER__EVENT_LOG to an empty folder, or move the old one away"
            )
        else:
            starts[partition] = offset
    return starts
