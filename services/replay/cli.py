"""`nextclick replay`: describes a click log and publishes its clicks."""

from __future__ import annotations

import contextlib
import logging
import math
import re
import secrets as random
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console

from nextclick.services.replay.formats import ROLES
from nextclick.services.replay.log import ClickFile, ReadOptions
from nextclick.services.replay.publish import (
    Plan,
    State,
    fingerprint,
    publish,
    read_state,
    state_path,
    write_state,
)
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.kafka import Publisher, ensure_topics
from nextclick.shared.runtime.retry import RetryUntilAvailable, ShutdownRequested
from nextclick.shared.runtime.settings import KafkaSettings, Settings
from nextclick.shared.runtime.terminal import progress

log = logging.getLogger(__name__)


def parse_speed(text: str) -> float:
    """Parse `1x`, `100x` or `max` (infinity). Raises ConfigurationError."""
    if text == "max":
        return math.inf
    found = re.fullmatch(r"(\d+(?:\.\d+)?)x?", text)
    if found is None or float(found[1]) == 0:
        raise ConfigurationError(f"--speed {text}: use 1x, 100x, … or max")
    return float(found[1])


def parse_mapping(text: str) -> dict[str, str]:
    """Parse any of `user=…,item=…,time=…,type=…,id=…` to role → column.

    Raises ConfigurationError.
    """
    mapping = {}
    for part in filter(None, text.split(",")):
        role, equals, column = part.partition("=")
        if not equals or role.strip() not in ROLES or not column.strip():
            raise ConfigurationError(
                f"--map {text}: write user=COLUMN,item=COLUMN,time=COLUMN,type=COLUMN"
            )
        mapping[role.strip()] = column.strip()
    return mapping


def parse_columns(text: str) -> list[str]:
    """Parse `a,b,c` to names; the roles user, item, time and type are understood as such."""
    common = {"user": "user_id", "item": "item_id", "time": "timestamp", "type": "event_type"}
    names = [name.strip() for name in text.split(",")] if text else []
    return [common.get(name, name) for name in names]


def read_options(
    settings: Settings,
    format: str,
    mapping: str,
    columns: str,
    time_unit: str,
    time_format: str,
    guests: str,
    encoding: str,
) -> ReadOptions:
    """The options of a command that reads a file. Raises ConfigurationError."""
    return ReadOptions(
        format=format,
        mapping=parse_mapping(mapping),
        columns=parse_columns(columns),
        time_unit=time_unit,
        time_format=time_format,
        guests=guests,
        encoding=encoding,
        event_weights=settings.clicks.event_weights,
        label_weights=settings.clicks.label_weights,
        latest_ms=int((time.time() + settings.clicks.max_ahead_seconds) * 1000),
    )


def describe(clicks: ClickFile, console: Console, strict: bool) -> None:
    """Print a summary of a file and its problems.

    Raises ConfigurationError if there are problems and `strict` is set.
    """
    first, last = (
        datetime.fromtimestamp(moment / 1000, UTC).isoformat(sep=" ", timespec="seconds")
        for moment in (clicks.times[0], clicks.times[-1])
    )
    users, items = len(np.unique(clicks.users)), len(np.unique(clicks.items))
    console.print(
        f"{clicks.name}: {clicks.format}, times in {clicks.time_unit}; "
        f"{clicks.read:,} events, {len(clicks):,} usable clicks, by {users:,} users on "
        f"{items:,} items, from {first} to {last} UTC",
        markup=False,
        highlight=False,
    )
    if len(clicks.read_types) > 1:
        types = ", ".join(
            f"{name} {count:,} (weight {weight:g})" if weight else f"{name} {count:,} (no clicks)"
            for name, (count, weight) in clicks.read_types.items()
        )
        console.print(f"event types: {types}", markup=False, highlight=False)
    if clicks.unsorted:
        console.print("its times are not in order: clicks are sent in the order of their times")
    for problem in clicks.problems:
        console.print(str(problem), markup=False, highlight=False)
    if strict and clicks.problems:
        raise ConfigurationError(f"{clicks.name}: refused, as --strict asks; nothing was sent")


def replay(
    clicks: ClickFile,
    kafka: KafkaSettings,
    stop: threading.Event,
    console: Console,
    *,
    speed: float,
    now: bool,
    restart: bool,
    state_file: Path | None,
) -> None:
    """Publish the clicks that are not sent yet; the progress is saved in `state_file`.

    Raises ConfigurationError if the saved progress is that of another file, topic or `now`.
    """
    path = state_file or state_path(clicks)
    state = None if restart else read_state(path)
    file_fingerprint = fingerprint(clicks)
    if state is None:
        state = State(file_fingerprint, kafka.clicks_topic, 0, random.token_hex(4) if now else "")
    elif (state.fingerprint, state.topic, bool(state.salt)) != (
        file_fingerprint,
        kafka.clicks_topic,
        now,
    ):
        raise ConfigurationError(
            f"{clicks.name}: an earlier replay ({state.sent:,} clicks sent) had another file "
            "content, topic or --now; --restart starts over"
        )
    else:
        console.print(f"resuming after {state.sent:,} clicks; --restart starts over")
    write_state(path, state)  # fails before the first click if it cannot be written
    ensure_topics(kafka, [kafka.clicks_topic])
    before, began = state.sent, time.monotonic()
    with progress(len(clicks), "clicks sent", console) as show:
        show(state.sent)

        def save(new_state: State) -> None:
            write_state(path, new_state)
            show(new_state.sent)

        with contextlib.suppress(ShutdownRequested):
            publish(
                clicks,
                Plan(kafka.clicks_topic, speed, now),
                state,
                Publisher(kafka),
                save=save,
                stop=stop,
                until_available=RetryUntilAvailable(stop, log),
            )
    seconds = time.monotonic() - began
    sent = state.sent - before
    console.print(f"{sent:,} clicks sent in {seconds:,.1f} s, {sent / seconds:,.0f}/s")
    if state.sent == len(clicks):
        path.unlink()
    else:
        left = len(clicks) - state.sent
        console.print(f"{left:,} are left; the same command resumes")
