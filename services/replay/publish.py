"""Clicks of a file onto Kafka: at their own pace, faster, or as fast as it goes; resumable.

Open loop, as the simulator: a click is due when the file says so, whatever happened before. Where
the replay has come is written down after Kafka has acknowledged the clicks up to there. A crash
repeats the clicks since; their event ids are the same, so they count once.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nextclick.services.replay.log import ClickFile
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.kafka import Publisher
from nextclick.shared.messages import OutMessage, of_user
from nextclick.shared.runtime.retry import RetryUntilAvailable
from nextclick.shared.schemas import Click

AT_ONCE = 2000
"""Clicks between two acknowledgements at most, and so those that a crash repeats at full speed."""
_LONGEST_WAIT = 0.5
_SAVE_SECONDS = 0.5
"""A slower replay repeats the clicks of about so long."""


@dataclass(frozen=True)
class Plan:
    """How a file is replayed."""

    topic: str
    speed: float
    """Times as fast as the clicks came; infinite: as fast as it goes."""
    now: bool
    """Date each click when it is due, instead of when it happened."""


@dataclass
class State:
    """Where a replay is; written beside the file."""

    fingerprint: str
    topic: str
    sent: int
    """Clicks acknowledged, in the file's order of times."""
    salt: str
    """Part of every event id; not empty where clicks are dated anew: they are new clicks."""


def fingerprint(clicks: ClickFile) -> str:
    """What is sent, in a few characters: a replay is not resumed with another file."""
    digest = hashlib.blake2b(digest_size=8)
    for column in (clicks.users, clicks.items, clicks.times):
        digest.update(np.ascontiguousarray(column).tobytes())
    for ids in (clicks.user_ids, clicks.item_ids):
        digest.update("\n".join(ids).encode())
    return digest.hexdigest()


def state_path(path: Path) -> Path:
    """Where the state of a file's replay is kept."""
    return path.with_name(f".{path.name}.replay.json")


def read_state(path: Path) -> State | None:
    """The state of a replay that did not come to its end.

    Raises ConfigurationError if it is unreadable.
    """
    try:
        return State(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{path} is unreadable ({error}): --restart forgets it") from None


def write_state(path: Path, state: State) -> None:
    """Replace the state at once. Raises ConfigurationError if it cannot be written."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(json.dumps(asdict(state)))
        temporary.replace(path)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written ({error.strerror}): --state says where else"
        ) from None


def publish(
    clicks: ClickFile,
    plan: Plan,
    state: State,
    publisher: Publisher,
    *,
    save: Callable[[State], None],
    stop: threading.Event,
    patiently: RetryUntilAvailable,
    clock: Callable[[], float] = time.time,
) -> None:
    """Send what is not sent yet, until `stop`; `save` is called after acknowledgements.

    Raises ShutdownRequested if `stop` is set while Kafka is away.
    """
    patiently(publisher.connect)
    began = saved = clock()
    first = clicks.times[min(state.sent, len(clicks) - 1)]
    # Seconds from now until each click is due; none at infinite speed.
    due = (clicks.times - first) / 1000 / plan.speed
    while state.sent < len(clicks) and not stop.is_set():
        elapsed = clock() - began
        end = min(int(np.searchsorted(due, elapsed, side="right")), state.sent + AT_ONCE)
        if end <= state.sent:
            stop.wait(min(_LONGEST_WAIT, max(0.001, due[state.sent] - elapsed)))
            continue
        sending = range(state.sent, end)
        dates = clicks.times[sending.start : end]
        if plan.now:
            late = due[sending.start : end] if np.isfinite(plan.speed) else np.array([elapsed])
            dates = np.broadcast_to(((began + late) * 1000).astype(np.int64), len(sending))
        publisher.send(
            _message(clicks, place, plan.topic, int(date), state.salt)
            for place, date in zip(sending, dates, strict=True)
        )
        patiently(publisher.wait_acknowledged)
        state.sent = end
        if clock() - saved >= _SAVE_SECONDS or len(sending) == AT_ONCE:
            save(state)
            saved = clock()
    save(state)


def _message(clicks: ClickFile, place: int, topic: str, date: int, salt: str) -> OutMessage:
    click = Click(
        event_id=clicks.event_id(place, salt),
        user_id=clicks.user_ids[clicks.users[place]],
        item_id=clicks.item_ids[clicks.items[place]],
        timestamp=date,
    )
    return of_user(topic, click)
