"""The trainer process: retrains when enough clicks are new in the event log.

It looks only at the event log. Who writes that is a collector: by default in a thread of this
process, so that collecting goes on during a fit; with `--no-collect` processes of their own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence

import torch

from nextclick.shared.errors import ConfigurationError, NextclickError, Unavailable
from nextclick.shared.item_features import NO_CONTENTS
from nextclick.shared.items import ItemTable, contents_of
from nextclick.shared.kafka import read_items
from nextclick.shared.model import select_device
from nextclick.shared.registry import Registry
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.background import BackgroundThread
from nextclick.shared.runtime.heartbeat import HEARTBEAT, Heartbeat
from nextclick.shared.runtime.rate_limit import RateLimit
from nextclick.shared.runtime.settings import RegistrySettings, Settings, TrainerSettings
from nextclick.trainer import health
from nextclick.trainer.collect import EventLog, LogState
from nextclick.trainer.collect import main as collecting
from nextclick.trainer.data import LeftOut, weighted
from nextclick.trainer.fit import distributed
from nextclick.trainer.fit.distributed import ProcessGroup
from nextclick.trainer.fit.presets import Preset, preset
from nextclick.trainer.learn.main import Learner, learner_thread
from nextclick.trainer.retrain import (
    FitLimits,
    Outcome,
    fit_with_rank_zero,
    last_trained_on,
    retrain,
)

log = logging.getLogger(__name__)

TRAINED_ON = ("user_id", "item_id", "timestamp", "event_type")
"""The columns of the event log that a fit needs."""
LOOK_SECONDS = 1.0
"""Time between two looks at the event log."""
OVERHEAD_SECONDS = 3600.0
"""Longest time of a retraining beside its fit (reading, evaluation, …); after that it is stuck."""


def run(
    settings: Settings,
    stop: threading.Event,
    *,
    once: bool = False,
    collect: bool = True,
    items: bool | None = None,
    force: bool = False,
) -> Outcome | None:
    """Collect and retrain until `stop` is set; with `once`, catch up, retrain once, and return.

    Without `collect`, others write the event log. With `items` (None: as `collect`) items that are
    retired on their topic are left out. With neither, Kafka is not asked. With `once` nothing is
    trained if no click is new since the last version, unless `force` is set. With torchrun, rank 0
    does this; the other ranks only take part in the fits. Returns the outcome of the retraining
    with `once`, else None. Raises ConfigurationError or Unavailable if Kafka, the event log, the
    registry or the device is not usable at the start; RankLost if another rank dies; and what ends
    the collector's thread.
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
            settings,
            stop,
            recipe,
            limits,
            device,
            group,
            once=once,
            collect=collect,
            items=collect if items is None else items,
            force=force,
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
    items: bool,
    force: bool,
) -> Outcome | None:
    trainer = settings.trainer
    registry = Registry(settings.registry.url)
    registry.check_writable()
    event_log = EventLog(trainer.event_log)

    def retrain_now(state: LogState, stopped: Callable[[], bool]) -> Outcome | None:
        # First, so that a missing permission is said before hours of clicks are logged.
        table = read_items(settings.kafka) if items else ItemTable()
        if state.clicks < trainer.min_clicks:
            log.info(
                "%d clicks logged, too few to train on (minimum %d)",
                state.clicks,
                trainer.min_clicks,
            )
            return None
        HEARTBEAT.beat(within=trainer.max_fit_seconds + OVERHEAD_SECONDS)
        log.info("retraining on %d clicks", min(state.clicks, trainer.window_clicks))
        tombstones = event_log.tombstones()  # before the clicks: it may know fewer, never more
        outcome = retrain(
            weighted(
                event_log.read(trainer.window_clicks, TRAINED_ON),
                settings.clicks.event_weights,
                settings.clicks.label_weights,
            ),
            registry,
            recipe,
            limits,
            gap_ms=int(settings.session.gap_seconds * 1000),
            device=device,
            max_per_minute=settings.clicks.max_per_minute,
            forget_count=tombstones.count,
            retired=table.states.retired,
            contents=contents_of(table) if trainer.max_cold_items else NO_CONTENTS,
            max_cold_items=trainer.max_cold_items,
            log_state=state,
            promote=trainer.promote,
            stopped=stopped,
            ranks=group,
        )
        if outcome is not None:
            _report(outcome, registry, settings.registry, tombstones.models)
        return outcome

    if once:
        if collect:
            collecting.collect_once(settings, stop)
        with health.health_server(settings, event_log, registry, None):
            if stop.is_set():
                return None
            state, last = event_log.state(), last_trained_on(registry)
            if last is not None and not force and state.new_since(last[1]) == 0:
                log.info(
                    "nothing to do: no click was logged since version %s was trained; "
                    "--force trains nevertheless",
                    last[0],
                )
                return None
            return retrain_now(state, stop.is_set)
    with contextlib.ExitStack() as stack:
        collector, threads = None, []
        if collect:
            collector = collecting.make_collector(settings, stop, Heartbeat())
            threads.append(stack.enter_context(collecting.collector_thread(collector, stop)))
        if trainer.delta_seconds:
            learner = Learner(settings, registry, EventLog(trainer.event_log))
            threads.append(stack.enter_context(learner_thread(learner, trainer.delta_seconds)))
        stack.enter_context(health.health_server(settings, event_log, registry, collector))
        last = last_trained_on(registry)
        trained_on = last[1] if last else None
        _retrain_when_due(event_log, trained_on, trainer, retrain_now, stop, threads)
    return None


def _retrain_when_due(
    event_log: EventLog,
    trained_on: LogState | None,
    trainer: TrainerSettings,
    retrain_now: Callable[[LogState, Callable[[], bool]], Outcome | None],
    stop: threading.Event,
    threads: Sequence[BackgroundThread],
) -> None:
    """Look at the event log until `stop` is set; retrain when enough clicks are new, or time is up.

    trained_on: the state of the log at the last retraining. Raises what has ended one of the
    threads: the collector's and the learner's, where there are any.
    """
    warnings = RateLimit()
    state = trained_on or LogState("", 0, -1)
    last = time.monotonic()

    def stopped() -> bool:
        return stop.is_set() or any(thread.has_failed for thread in threads)

    while not stop.wait(LOOK_SECONDS):
        HEARTBEAT.beat()
        for thread in threads:
            thread.check()
        try:
            now = event_log.state()
        except Unavailable as error:
            if warnings.allow():
                log.warning("waiting: %s", error)
            continue
        new = now.new_since(state)
        waited = time.monotonic() - last >= trainer.every_seconds and new > 0
        if waited or new >= trainer.every_clicks:
            try:
                retrain_now(now, stopped)
            except Unavailable as error:  # of the registry; the next retraining tries again
                log.error("this retraining is lost: %s", error, extra={"outcome": "lost"})
                metrics.RETRAINS.labels("lost").inc()
            state, last = now, time.monotonic()


def _report(
    outcome: Outcome, registry: Registry, limits: RegistrySettings, forget_count: int
) -> None:
    """Log, count and record an outcome; after a publication remove old versions."""
    _report_left_out(outcome.left_out)
    published = outcome.version is not None
    metrics.RETRAINS.labels("published" if published else "refused").inc()
    if published:
        _prune(registry, limits, forget_count)
    else:
        metrics.GATE_REFUSALS.labels(outcome.refusal).inc()
        _note_refusal(registry, outcome.reason)
    verdict = f"published {outcome.version}" if published else "refused the candidate"
    if outcome.waits:
        verdict += ", which waits for `nextclick experiment start` or `nextclick models promote`,"
    fields = {
        "outcome": "published" if published else "refused",
        "model_version": outcome.version,
        "reason": outcome.refusal or None,
        "seconds": round(outcome.seconds, 1),
    }
    log.info("%s after %.1f s: %s", verdict, outcome.seconds, outcome.reason, extra=fields)


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
