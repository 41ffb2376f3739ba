"""The newest clicks that this process published, to answer a click before the worker has it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nextclick.shared.click_rules import ClickRules
from nextclick.shared.messages import Message, of_user
from nextclick.shared.redis import MAX_UNCOMMITTED_CLICKS_PER_USER
from nextclick.shared.schemas import Click

_KEPT_MS = 60_000
_MAX_USERS = 10_000


@dataclass(frozen=True, slots=True)
class _Published:
    at_ms: float
    click: Click


class PublishedClicks:
    """Remembers clicks of the last minute, by user, in the order in which Kafka has them.

    The worker may be some clicks behind. `sessions.preview` of a user's clicks from here gives the
    history that the worker will have: those that it has appended by now are recognised by their
    event ids. `add` is called by one thread, `up_to` by another.
    """

    def __init__(self, rules: ClickRules, clock: Callable[[], float] = time.time) -> None:
        """`rules`: those of the worker. `clock`: seconds since the epoch, as Kafka's."""
        self._rules = rules
        self._clock = clock
        self._lock = threading.Lock()
        self._of_user: OrderedDict[str, deque[_Published]] = OrderedDict()
        """The user who clicked last is the last."""

    def add(self, clicks: Sequence[Click]) -> None:
        """Remember clicks that Kafka has acknowledged, in this order."""
        now_ms = int(self._clock() * 1000)
        for click in clicks:
            counted = self._as_the_worker_reads_it(click, now_ms)
            if counted is None:
                continue
            with self._lock:
                kept = self._of_user.setdefault(
                    click.user_id, deque(maxlen=MAX_UNCOMMITTED_CLICKS_PER_USER)
                )
                kept.append(_Published(now_ms, counted))
                self._of_user.move_to_end(click.user_id)
                if len(self._of_user) > _MAX_USERS:
                    self._of_user.popitem(last=False)

    def up_to(self, click: Click) -> list[Click]:
        """A user's clicks of the last minute, oldest first; `click`, which was added, is the last.

        Empty if it is an event that is no click.
        """
        oldest_ms = self._clock() * 1000 - _KEPT_MS
        with self._lock:
            published = list(self._of_user.get(click.user_id, ()))
        for place in reversed(range(len(published))):
            if published[place].click.event_id == click.event_id:
                return [p.click for p in published[: place + 1] if p.at_ms >= oldest_ms]
        return []

    def _as_the_worker_reads_it(self, click: Click, now_ms: int) -> Click | None:
        sent = of_user("", click)
        return self._rules.read(Message("", -1, -1, sent.key, sent.value, (), now_ms))
