"""Publishes the clicks of a file to Kafka, at their own pace or faster; resumable.

Open loop, like the simulator: a click is due at its time in the file, independent of delays before.
The progress is saved after Kafka has acknowledged the clicks. A crash repeats the clicks since the
last save; their event ids are the same, so they count once.
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
from nextclick.services.replay.sources import STANDARD_INPUT
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.kafka import Publisher
from nextclick.shared.messages import AS_REPLAYED, OutMessage, of_user
from nextclick.shared.runtime.retry import RetryUntilAvailable
from nextclick.shared.schemas import Click

MAX_BATCH = 2000
"""Most clicks between two acknowledgements, and so the most that a crash at full speed repeats."""
_LONGEST_WAIT = 0.5
_SAVE_SECONDS = 0.5
"""Time between saves at lower speeds."""


@dataclass(frozen=True)
class Plan:
    """How a file is replayed."""

    topic: str
    speed: float
    """Factor on the original pace; infinity: as fast as possible."""
    now: bool
    """Use the time at which a click is due as its timestamp, instead of the one in the file."""


@dataclass
class State:
    """Progress of a replay; saved beside the file."""

    fingerprint: str
    topic: str
    sent: int
    """Acknowledged clicks, in order of time."""
    salt: str
    """Part of every event id. Not empty if clicks get new timestamps: they are new clicks."""


def fingerprint(clicks: ClickFile) -> str:
    """A hash of the content, so that a replay is not resumed with another file."""
    digest = hashlib.blake2b(digest_size=8)
    for column in (clicks.users, clicks.items, clicks.times, clicks.types):
        digest.update(np.ascontiguousarray(column).tobytes())
    for ids in (clicks.user_ids, clicks.item_ids, clicks.event_types):
        digest.update("\n".join(ids).encode())
    return digest.hexdigest()


def state_path(clicks: ClickFile) -> Path:
    """The default path of the state of a replay: beside the file or folder.

    Raises ConfigurationError for several files, and for what is not on a local disk.
    """
    path = Path(clicks.data[0])
    if len(clicks.data) > 1 or clicks.data[0] == STANDARD_INPUT or not path.exists():
        raise ConfigurationError(f"{clicks.name}: say by --state FILE where to keep the progress")
    return path.with_name(f".{path.resolve().name}.replay.json")


def read_state(path: Path) -> State | None:
    """The state of an unfinished replay; None if there is none.

    Raises ConfigurationError if it is unreadable.
    """
    try:
        return State(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{path} is unreadable ({error}): --restart discards it") from None


def write_state(path: Path, state: State) -> None:
    """Replace the state atomically. Raises ConfigurationError if it cannot be written."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(json.dumps(asdict(state)))
        temporary.replace(path)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written ({error.strerror}): choose another file with --state"
        ) from None


def publish(
    clicks: ClickFile,
    plan: Plan,
    state: State,
    publisher: Publisher,
    *,
    save: Callable[[State], None],
    stop: threading.Event,
    until_available: RetryUntilAvailable,
    clock: Callable[[], float] = time.time,
) -> None:
    """Send the clicks that are not sent yet, until `stop`; updates `state`.

    save: called with the state after acknowledgements. clock: seconds since the epoch. Raises
    ShutdownRequested if `stop` is set while Kafka is unavailable.
    """
    until_available(publisher.connect)
    began = saved = clock()
    first = clicks.times[min(state.sent, len(clicks) - 1)]
    # Seconds from now until each click is due; 0 at infinite speed.
    due = (clicks.times - first) / 1000 / plan.speed
    while state.sent < len(clicks) and not stop.is_set():
        elapsed = clock() - began
        end = min(int(np.searchsorted(due, elapsed, side="right")), state.sent + MAX_BATCH)
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
        until_available(publisher.wait_acknowledged)
        state.sent = end
        if clock() - saved >= _SAVE_SECONDS or len(sending) == MAX_BATCH:
            save(state)
            saved = clock()
    save(state)


def _message(clicks: ClickFile, place: int, topic: str, date: int, salt: str) -> OutMessage:
    click = Click(
        event_id=clicks.event_id(place, salt),
        user_id=clicks.user_ids[clicks.users[place]],
        item_id=clicks.item_ids[clicks.items[place]],
        timestamp=date,
        event_type=clicks.event_type(place),
    )
    return of_user(topic, click, AS_REPLAYED)
