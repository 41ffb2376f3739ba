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
from collections.abc import Callable

import torch

from nextclick.shared.errors import (
    ConfigurationError,
    NextclickError,
    Unavailable,
)
from nextclick.shared.kafka import ClickConsumer, ensure_topics, offsets_held
from nextclick.shared.model import select_device
from nextclick.shared.registry import Registry
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.heartbeat import HEARTBEAT
from nextclick.shared.runtime.retry import RetryUntilAvailable, ShutdownRequested
from nextclick.shared.runtime.settings import Settings, TrainerSettings
from nextclick.trainer import health
from nextclick.trainer.collect import EventLog
from nextclick.trainer.collect.collector import Collector, catch_up
from nextclick.trainer.fit import distributed
from nextclick.trainer.fit.distributed import ProcessGroup
from nextclick.trainer.fit.presets import Preset, preset
from nextclick.trainer.retrain import FitLimits, Outcome, fit_with_rank_zero, retrain

log = logging.getLogger(__name__)

AROUND_A_FIT_SECONDS = 3600.0
"""A retraining that takes longer than its fit may and this is stuck; the rest of it has no cap."""


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
    with distributed.process_group() as group:
        cores = (os.cpu_count() or 1) // group.local_world
        torch.set_num_threads(ours.torch_threads or max(1, cores))
        device = select_device(settings.device)
        if device.type == "cuda" and device.index is None and group.world > 1:
            device = torch.device("cuda", group.local_rank)
        limits = FitLimits(ours.seed, ours.max_epochs, ours.max_fit_seconds)
        if group.rank:
            log.info("rank %d of %d: fitting along on %s", group.rank, group.world, device)
            gap_ms = int(settings.session.gap_seconds * 1000)
            fit_with_rank_zero(group, recipe, limits, gap_ms=gap_ms, device=device)
            return None
        outcome = _run_rank_zero(settings, stop, recipe, limits, device, group, once=once)
        group.send_end()
        return outcome


def _run_rank_zero(
    settings: Settings,
    stop: threading.Event,
    recipe: Preset,
    limits: FitLimits,
    device: torch.device,
    group: ProcessGroup,
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
        HEARTBEAT.beat(within=ours.max_fit_seconds + AROUND_A_FIT_SECONDS)
        log.info("retraining on %d clicks", min(held, ours.window_clicks))
        outcome = retrain(
            event_log.read(newest=ours.window_clicks),
            registry,
            recipe,
            limits,
            gap_ms=int(settings.session.gap_seconds * 1000),
            device=device,
            stopped=stop.is_set,
            ranks=group,
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
        seek=lambda partitions: collector.starts(offsets_held(kafka, topic), partitions),
        instance_id=ours.instance_id,
        bulk=True,
    )
    collector = Collector(consumer, event_log, RetryUntilAvailable(stop, log), ours.flush_seconds)
    try:
        with health.served(settings, event_log, registry, consumer):
            if once:
                catch_up(collector, stop)
                _compact(event_log)
                return None if stop.is_set() else retrain_now()
            _collect_and_retrain(collector, ours, retrain_now, stop)
            collector.flush()
    except ShutdownRequested:
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
            _compact(collector.event_log)
            last = time.monotonic()


def _compact(event_log: EventLog) -> None:
    """Merge small files of the log. It can wait: whatever goes wrong is only said."""
    HEARTBEAT.beat(within=AROUND_A_FIT_SECONDS)
    try:
        done = event_log.compact()
    except NextclickError as error:
        log.warning("the event log was not compacted: %s", error)
        return
    if done.rows_rewritten:
        log.info("event log: %d files became %d", done.files_before, done.files_after)
