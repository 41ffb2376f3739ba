"""Three attacks on a clicks topic, and the honest shop that they happen to."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nextclick.services.simulator.missions import MissionWorld
from nextclick.services.simulator.publish import click_frame
from nextclick.shared.click_rules import ClickRules
from nextclick.shared.messages import Message
from nextclick.shared.schemas import Click

RATE = 100
"""Honest clicks a second."""
END_MS = 1_700_000_000_000
YEAR_9999_MS = 253_370_764_800_000
BOTS = 40
BAIT = MissionWorld().item_ids[7]
"""The item that the attackers want to be seen."""


def honest(clicks: int, seed: int = 1, end_ms: int = END_MS) -> pd.DataFrame:
    """Clicks of the missions world, RATE a second."""
    return click_frame(MissionWorld().clicks(clicks, seed), end_ms, RATE, seed)


def year_9999(frame: pd.DataFrame, clicks: int = 20_000) -> pd.DataFrame:
    """Twenty users whose clicks, all within the last minute, claim the year 9999.

    They are read from messages, as by the trainer, which gives them Kafka's time.
    """
    rules = ClickRules()
    rows = []
    for i in range(clicks):
        click = Click(
            event_id=f"late-{i}",
            user_id=f"late-{i % 20}",
            item_id=BAIT,
            timestamp=YEAR_9999_MS + i,
        )
        value = click.model_dump_json().encode()
        arrived = END_MS - 60_000 + 60_000 * i // clicks
        message = Message("clicks", 0, i, click.user_id.encode(), value, timestamp_ms=arrived)
        read = rules.read(message)
        assert read is not None
        rows.append((read.event_id, read.user_id, read.item_id, read.timestamp))
    return _merged(frame, rows)


def one_user(frame: pd.DataFrame, clicks: int = 20_000) -> pd.DataFrame:
    """20,000 clicks of one user within the last minute: the bait, and some other item in turn."""
    return _merged(frame, _alternating("flood", frame, clicks, END_MS - 60_000, 60_000 / clicks))


def forty_bots(frame: pd.DataFrame, per_second: float = 1.0) -> pd.DataFrame:
    """Forty users who click the bait after every other click, all the time."""
    first_ms = int(frame["timestamp"].iloc[0])
    clicks = int((END_MS - first_ms) / 1000 * per_second)
    rows = []
    for bot in range(BOTS):
        rows += _alternating(f"bot-{bot}", frame, clicks, first_ms + bot, 1000 / per_second)
    return _merged(frame, rows)


ATTACKS = {"the year 9999": year_9999, "one user": one_user, "forty bots": forty_bots}


def _alternating(
    user: str, frame: pd.DataFrame, clicks: int, first_ms: int, pause_ms: float
) -> list[tuple[str, str, str, int]]:
    """Event id, user, item, time: a random item of the shop and the bait in turn."""
    seed = [int(byte) for byte in user.encode()]
    items = np.random.default_rng(seed).choice(frame["item_id"].unique(), clicks)
    return [
        (f"{user}-{i}", user, BAIT if i % 2 else str(item), first_ms + int(i * pause_ms))
        for i, item in enumerate(items)
    ]


def _merged(frame: pd.DataFrame, rows: list[tuple[str, str, str, int]]) -> pd.DataFrame:
    """Both in order of time."""
    added = pd.DataFrame(rows, columns=["event_id", "user_id", "item_id", "timestamp"])
    both = pd.concat([frame, added])
    return both.sort_values("timestamp", kind="stable", ignore_index=True)
