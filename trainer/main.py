"""The trainer process: collects clicks into the event log and retrains when due.

One loop in one thread. During a fit, clicks wait on Kafka, and the loop catches up afterwards. The
consumer's poll interval is long enough for any fit.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

import torch

from nextclick.shared.errors import ConfigurationError, NextclickError, Unavailable
from nextclick.shared.event_types import weights_of
from nextclick.shared.kafka import ClickConsumer, ensure_topics, retained_offsets
from nextclick.shared.kafka.schema_registry import framed_reader
from nextclick.shared.model import select_device
from nextclick.shared.registry import Registry
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.anomalies import click_rules
from nextclick.shared.runtime.heartbeat import HEARTBEAT
from nextclick.shared.runtime.retry import RetryUntilAvailable, ShutdownRequested
from nextclick.shared.runtime.settings import RegistrySettings, Settings, TrainerSettings
from nextclick.shared.schemas import Click
from nextclick.trainer import health
from nextclick.trainer.collect import EventLog
from nextclick.trainer.collect.collector import Collector, catch_up
from nextclick.trainer.data import LeftOut, weighted
from nextclick.trainer.fit import distributed
from nextclick.trainer.fit.distributed import ProcessGroup
from nextclick.trainer.fit.presets import Preset, preset
from nextclick.trainer.retrain import FitLimits, Outcome, fit_with_rank_zero, retrain

log = logging.getLogger(__name__)

TRAINED_ON = ("user_id", "item_id", "timestamp", "event_type")
"""The columns of the event log that a fit needs."""
OVERHEAD_SECONDS = 3600.0
"""Longest time of a retraining beside its fit (reading, evaluation, …); after that it is stuck."""


def run(
    settings: Settings, stop: threading.Event, *, once: bool = False, collect: bool = True
) -> Outcome | None:
    """Collect and retrain until `stop` is set; with `once`, catch up, retrain once, and return.

    Without `collect`, which goes with `once`, the event log is taken as it is, and Kafka is not
    asked. With torchrun, rank 0 does this; the other ranks only take part in the fits. Returns the
    outcome of the retraining with `once`, else None. Raises ConfigurationError or Unavailable if
    Kafka, the event log, the registry or the device is not usable at the start; RankLost if another
    rank dies.
    """
    trainer = settings.trainer
    recipe = preset(trainer.preset)
    if recipe.sampling != "temporal":
        raise ConfigurationError(
            f"NEXTCLICK_TRAINER__PRESET = {trainer.preset!r} trains on its test data, to "
            "reproduce the source's figures (nextclick evaluate source --preset source_table): "
            "it must not serve"
        )
    with distributed.process_group() as group:
        cores = (os.cpu_count() or 1) // group.local_world_size
        torch.set_num_threads(trainer.torch_threads or max(1, cores))
        device = select_device(settings.device)
        if device.type == "cuda" and device.index is None and group.world_size > 1:
            device = torch.device("cuda", group.local_rank)
        limits = FitLimits(trainer.seed, trainer.max_epochs, trainer.max_fit_seconds)
        if group.rank:
            log.info(
                "rank %d of %d: taking part in fits on %s", group.rank, group.world_size, device
            )
            gap_ms = int(settings.session.gap_seconds * 1000)
            fit_with_rank_zero(group, recipe, limits, gap_ms=gap_ms, device=device)
            return None
        outcome = _run_rank_zero(
            settings, stop, recipe, limits, device, group, once=once, collect=collect
        )
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
    collect: bool,
) -> Outcome | None:
    trainer = settings.trainer
    registry = Registry(settings.registry.url)
    registry.check_writable()
    event_log = EventLog(trainer.event_log)

    def retrain_now() -> Outcome | None:
        logged = event_log.count()
        if logged < trainer.min_clicks:
            log.info(
                "%d clicks logged, too few to train on (minimum %d)", logged, trainer.min_clicks
            )
            return None
        HEARTBEAT.beat(within=trainer.max_fit_seconds + OVERHEAD_SECONDS)
        log.info("retraining on %d clicks", min(logged, trainer.window_clicks))
        tombstones = event_log.tombstones()  # before the clicks: it may know fewer, never more
        outcome = retrain(
            weighted(
                event_log.read(trainer.window_clicks, TRAINED_ON),
                weights_of(settings.clicks.event_weights),
            ),
            registry,
            recipe,
            limits,
            gap_ms=int(settings.session.gap_seconds * 1000),
            device=device,
            max_per_minute=settings.clicks.max_per_minute,
            forget_count=tombstones.count,
            stopped=stop.is_set,
            ranks=group,
        )
        if outcome is not None:
            _report_left_out(outcome.left_out)
            published = outcome.version is not None
            metrics.RETRAINS.labels("published" if published else "refused").inc()
            if published:
                _prune(registry, settings.registry, tombstones.models)
            else:
                metrics.GATE_REFUSALS.labels(outcome.refusal).inc()
                _note_refusal(registry, outcome.reason)
            verdict = f"published {outcome.version}" if published else "refused the candidate"
            fields = {
                "outcome": "published" if published else "refused",
                "model_version": outcome.version,
                "reason": outcome.refusal or None,
                "seconds": round(outcome.seconds, 1),
            }
            log.info("%s after %.1f s: %s", verdict, outcome.seconds, outcome.reason, extra=fields)
        return outcome

    if not collect:
        return retrain_now()
    kafka, topic = settings.kafka, settings.kafka.clicks_topic
    until_available = RetryUntilAvailable(stop, log)
    read_framed = framed_reader(settings.schema_registry, Click, until_available)
    ensure_topics(kafka, [topic])
    consumer = ClickConsumer(
        kafka,
        topic,
        trainer.group_id,
        seek=lambda partitions: collector.starts(
            lambda: retained_offsets(kafka, topic), partitions
        ),
        instance_id=trainer.instance_id,
        bulk=True,
    )
    collector = Collector(
        consumer,
        event_log,
        until_available,
        trainer.flush_seconds,
        trainer.keep_days,
        click_rules(settings.clicks, read_framed),
    )
    try:
        with health.health_server(settings, event_log, registry, consumer):
            if once:
                catch_up(collector, stop)
                collector.maintain()
                return None if stop.is_set() else retrain_now()
            _collect_and_retrain(collector, trainer, retrain_now, stop)
            collector.flush()
    except ShutdownRequested:
        log.info("stopped while waiting for a server; unlogged clicks will be read again")
    finally:
        consumer.close()
    return None


def _report_left_out(left_out: LeftOut) -> None:
    metrics.LEFT_OUT.labels("rate").set(left_out.rate)
    metrics.LEFT_OUT.labels("share").set(left_out.share)
    if left_out.users:
        log.warning("%s", left_out)


def _note_refusal(registry: Registry, reason: str) -> None:
    try:
        registry.note_refusal(reason)
    except Unavailable as error:
        log.warning("the refusal is not recorded in the registry: %s", error)


def _prune(registry: Registry, limits: RegistrySettings, forget_count: int) -> None:
    """Remove old versions, and those trained at a lower forget count. An error is only logged."""
    try:
        removed = registry.prune(limits.keep_versions, limits.keep_days)
        removed += registry.remove(registry.trained_before(forget_count))
    except NextclickError as error:
        log.warning("old versions were not removed from the registry: %s", error)
        return
    if removed:
        log.info("removed %d versions from the registry: %s", len(removed), ", ".join(removed))


def _collect_and_retrain(
    collector: Collector,
    trainer: TrainerSettings,
    retrain_now: Callable[[], Outcome | None],
    stop: threading.Event,
) -> None:
    last = time.monotonic()
    while not stop.is_set():
        collector.step()
        waited = time.monotonic() - last >= trainer.every_seconds and collector.new_clicks > 0
        if waited or collector.new_clicks >= trainer.every_clicks:
            collector.flush()
            collector.new_clicks = 0
            try:
                retrain_now()
            except Unavailable as error:  # of the registry; the next retraining tries again
                log.error("this retraining is lost: %s", error, extra={"outcome": "lost"})
                metrics.RETRAINS.labels("lost").inc()
            last = time.monotonic()
