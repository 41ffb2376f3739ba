"""Time of fits, from scratch and from a champion.

    nextclick bench train --clicks 60k

A first model is fitted on the log of a simulated shop. Then preferences change and products appear,
and the new clicks are fitted *cold* (from scratch) and *warm* (from the first model). The target
quality is _QUALITY of the best validation NDCG of both; seconds count until the first epoch that
reaches it. Separately, a log is read from its Parquet files and cut into windows.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from nextclick.bench.drift import mission_popularity
from nextclick.services.simulator.missions import MissionWorld
from nextclick.services.simulator.publish import click_frame
from nextclick.shared.model import Checkpoint, Vocabulary
from nextclick.shared.runtime.settings import Settings
from nextclick.trainer.collect import EventLog
from nextclick.trainer.data import ClickLog, Split, click_log, samples, sessions_of
from nextclick.trainer.fit.loop import best_epoch
from nextclick.trainer.fit.pipeline import Fitted, fit_model
from nextclick.trainer.fit.presets import preset

_QUALITY = 0.99
_BEFORE, _AFTER = 0, 6
"""Stretches of the drift benchmark, before and after the change."""
_NOW_MS = 1_700_000_000_000
_LOGGED_ITEMS, _LOGGED_USERS = 10_000, 50_000


@dataclass(frozen=True)
class Row:
    """One fit, or the reading of a log."""

    what: str
    clicks: int
    seconds: float
    per_second: float
    """Clicks per second: for a fit, predicted clicks of all epochs; for a log, clicks read."""
    epochs: int = 0
    ndcg: float = 0.0
    """Best validation NDCG, over the whole catalogue."""
    seconds_to_quality: float = 0.0


def measure(clicks: int, logged: int, epochs: int = 0, seed: int = 0) -> list[Row]:
    """Read a log of `logged` clicks; fit `clicks` before and as many after the shop changes.

    epochs: most epochs of each fit; 0: as in the preset.
    """
    gap_ms = int(Settings().session.gap_seconds * 1000)
    before, after = (_log(stretch, clicks, gap_ms, seed) for stretch in (_BEFORE, _AFTER))
    first, vocabulary = _fit(before, Vocabulary([]), None, epochs, seed)
    champion = Checkpoint(
        first.model, vocabulary, before.counts(vocabulary), "default", None, {}, {}
    )
    cold, _ = _fit(after, Vocabulary([]), None, epochs, seed)
    warm, _ = _fit(after, vocabulary, champion, epochs, seed)
    quality = _QUALITY * max(best_epoch(fitted.curve).validation_ndcg for fitted in (cold, warm))
    return [
        _read(logged, gap_ms, seed),
        _row("cold", cold, after, quality),
        _row("warm", warm, after, quality),
    ]


def _log(stretch: int, clicks: int, gap_ms: int, seed: int) -> ClickLog:
    shop = MissionWorld(seed, mission_popularity=mission_popularity(stretch))
    return click_log(click_frame(shop.clicks(clicks, seed), _NOW_MS, rate=1, seed=seed), gap_ms)


def _read(clicks: int, gap_ms: int, seed: int) -> Row:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "event_id": [f"{number:032x}" for number in range(clicks)],
            "user_id": rng.integers(0, _LOGGED_USERS, clicks).astype(str),
            "item_id": rng.integers(0, _LOGGED_ITEMS, clicks).astype(str),
            "timestamp": _NOW_MS + 100 * np.arange(clicks),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        log = EventLog(folder)
        log.import_clicks(frame)
        began = time.perf_counter()
        data = click_log(log.read(), gap_ms)
        samples(data, Split.TRAIN, Vocabulary([]).extended(data.ids_in(Split.TRAIN)))
        seconds = time.perf_counter() - began
    return Row("log to windows", clicks, seconds, clicks / seconds)


def _fit(
    log: ClickLog, known: Vocabulary, champion: Checkpoint | None, epochs: int, seed: int
) -> tuple[Fitted, Vocabulary]:
    vocabulary = known.extended(log.ids_in(Split.TRAIN))
    fitted = fit_model(
        log,
        vocabulary,
        preset("default"),
        seed=seed,
        device=torch.device("cpu"),
        champion=champion,
        max_epochs=epochs,
    )
    return fitted, vocabulary


def _row(what: str, fitted: Fitted, log: ClickLog, quality: float) -> Row:
    targets = sessions_of(log, Vocabulary(log.item_ids), (Split.TRAIN,)).targets
    last = fitted.curve[-1]
    reached = [epoch.seconds for epoch in fitted.curve if epoch.validation_ndcg >= quality]
    return Row(
        what=what,
        clicks=len(log.items),
        seconds=last.seconds,
        per_second=targets * last.epoch / last.seconds,
        epochs=last.epoch,
        ndcg=best_epoch(fitted.curve).validation_ndcg,
        seconds_to_quality=reached[0] if reached else float("nan"),
    )
