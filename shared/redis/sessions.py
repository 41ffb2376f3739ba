"""Session state: the last HISTORY_LENGTH items of every user, with idempotent appends.

`SessionStore` is the interface, `RedisSessions` the implementation on Redis, `MemorySessions` one
in a dictionary, for tests and offline use. One contract suite (tests/contract) tests both.
"""

from __future__ import annotations

import hashlib
import logging
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Protocol

import redis

from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.messages import Place
from nextclick.shared.redis.client import RedisServer, Script, translated_errors
from nextclick.shared.redis.cluster import RedisCluster, connect
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.anomalies import Anomalies
from nextclick.shared.runtime.masking import printable
from nextclick.shared.runtime.settings import Settings
from nextclick.shared.schemas import Click
from nextclick.shared.windows import HISTORY_LENGTH, starts_new_session

log = logging.getLogger(__name__)

ENTRIES_KEPT = 32
"""Clicks kept per user. More than HISTORY_LENGTH, so that a replayed click is found."""

MAX_UNCOMMITTED_CLICKS_PER_USER = ENTRIES_KEPT - HISTORY_LENGTH
"""Most clicks of one user that may be appended before their offsets are committed.

A crash replays uncommitted clicks. Up to this many per user, the store still holds each of them
with its whole history, so the replay is exact. The worker limits its batches accordingly.
"""


@dataclass(frozen=True, slots=True)
class Session:
    """The current session of a user."""

    history: list[str]
    """The session's last HISTORY_LENGTH items, oldest first; empty for an unknown user."""
    last_click: int | None = None
    """The newest event time seen from the user, epoch ms."""


class SessionStore(Protocol):
    """Keeps each user's recent clicks."""

    def append(
        self, clicks: Sequence[Click], places: Sequence[Place] | None = None
    ) -> list[list[str]]:
        """Append the clicks in order; return the history of each, oldest first, the click last.

        Idempotent by event_id: a click that the store still holds is not appended again, and gets
        the history of its first append. This covers replays of uncommitted clicks. For older
        replays (offsets were lost, or a worker that was declared dead resumes) `places` are
        compared: a click that is on the same partition as the user's newest click, not after it,
        and not newer in event time, was appended before. If the store no longer holds such a click
        with its whole history, its history is empty.

        Raises Unavailable if the store cannot be reached. Then any prefix of each user's clicks may
        have been appended; retry with all of them.
        """
        ...

    def preview(self, clicks: Sequence[Click]) -> list[list[str]]:
        """What `append` would return now; nothing is changed. Raises Unavailable."""
        ...

    def read(self, user_ids: Sequence[str]) -> list[Session]:
        """The current session of each user; nothing is changed. Raises Unavailable.

        Only a click after the gap ends a session, so one can be read long after its last click.
        """
        ...

    def forget(self, user_id: str) -> bool:
        """Delete everything about a user; returns whether there was anything. Raises Unavailable.

        A click that is appended later begins anew.
        """
        ...

    def ping(self) -> None:
        """Raise Unavailable if the store does not answer, ConfigurationError if the login fails."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a Redis or Valkey server says about itself."""

    name: str
    """Redis or Valkey, with its version."""
    used_bytes: int
    max_bytes: int
    """0: no limit."""
    policy: str
    """maxmemory-policy: what is done when the limit is reached."""
    time: float
    """The server's clock, seconds since the epoch."""

    @property
    def evicts(self) -> bool:
        """Whether keys go when the memory is full. (Sessions expire, so volatile-… means them.)"""
        return self.max_bytes > 0 and self.policy != "noeviction"


def _server_info(answer: dict[str, Any]) -> ServerInfo:
    valkey = answer.get("valkey_version")
    return ServerInfo(
        name=f"Valkey {valkey}" if valkey else f"Redis {answer['redis_version']}",
        used_bytes=int(answer["used_memory"]),
        max_bytes=int(answer["maxmemory"]),
        policy=str(answer["maxmemory_policy"]),
        time=int(answer["server_time_usec"]) / 1e6,
    )


_NOWHERE = Place(-1, -1)
_READ = Script(f"""
local list = redis.pcall('LRANGE', KEYS[1], {-HISTORY_LENGTH}, -1)
if list.err and string.find(list.err, 'WRONGTYPE', 1, true) then return {{}} end
return list
""")
# Deletes a key without the permission for DEL.
_FORGET = Script("return redis.call('EXPIRE', KEYS[1], 0)")


def event_digest(event_id: str) -> bytes:
    """An 8-byte hash of an event id, to recognise it among the last entries of one user."""
    return hashlib.blake2b(event_id.encode(), digest_size=8).digest()


class RedisSessions:
    """Session state in Redis or Valkey: one list per user, one Lua call per user and batch."""

    def __init__(
        self,
        url: str,
        *,
        key_prefix: str,
        gap_ms: int,
        ttl_seconds: int,
        timeout_seconds: float,
        cluster: bool = False,
        password_file: str = "",
        connect: Callable[..., RedisServer | RedisCluster] = connect,
    ) -> None:
        """Connects at the first call.

        `cluster`: the URL is of any node of a cluster. `password_file`: holds the password, read at
        each connection. `connect` makes the client; a simulation has its own. Raises
        ConfigurationError if `url` is not a Redis URL, or cannot be that of a cluster, or if the
        file cannot be read.
        """
        self._redis = connect(url, timeout_seconds, cluster=cluster, password_file=password_file)
        self._password_file = password_file
        self._key_prefix = key_prefix.encode()
        self._script = Script(resources.files(__package__).joinpath("sessions.lua").read_text())
        self._anomalies = Anomalies()
        self._constants = (gap_ms, ttl_seconds, HISTORY_LENGTH, ENTRIES_KEPT)

    def append(
        self, clicks: Sequence[Click], places: Sequence[Place] | None = None
    ) -> list[list[str]]:
        """See SessionStore.append. One round trip for any number of clicks."""
        return self._append(clicks, places or [_NOWHERE] * len(clicks), writes=True)

    def preview(self, clicks: Sequence[Click]) -> list[list[str]]:
        """See SessionStore.preview. The same script, so the same rules; one round trip."""
        return self._append(clicks, [_NOWHERE] * len(clicks), writes=False)

    def _append(
        self, clicks: Sequence[Click], places: Sequence[Place], writes: bool
    ) -> list[list[str]]:
        of_user: dict[str, list[bytes | str | int]] = {}
        for click, (partition, offset) in zip(clicks, places, strict=True):
            arguments = of_user.setdefault(click.user_id, [*self._constants, int(writes)])
            digest = event_digest(click.event_id)
            arguments += (digest, click.item_id, click.timestamp, partition, offset)
        calls = [(self._key_prefix + user.encode(), rest) for user, rest in of_user.items()]
        with translated_errors(self._password_file):
            answers = self._redis.evaluate(self._script, calls)
        for user, (replaced, moved, *_) in zip(of_user, answers, strict=True):
            if moved:
                place = next(p for c, p in zip(clicks, places, strict=True) if c.user_id == user)
                self._anomalies.add("user_on_several_partitions", *place)
            if replaced and writes:
                metrics.SESSIONS_REPLACED.inc()
                log.warning(
                    "the value at the Redis key %s was not a session: the user's session is reset",
                    printable((self._key_prefix + user.encode()).decode()),
                )
        histories = {u: iter(rest) for u, (_, _, *rest) in zip(of_user, answers, strict=True)}
        return [[_text(item) for item in next(histories[click.user_id])] for click in clicks]

    def read(self, user_ids: Sequence[str]) -> list[Session]:
        """See SessionStore.read. One round trip for any number of users."""
        with translated_errors(self._password_file):
            calls = [(self._key_prefix + user_id.encode(), ()) for user_id in user_ids]
            return [_session(entries) for entries in self._redis.evaluate(_READ, calls)]

    def forget(self, user_id: str) -> bool:
        """See SessionStore.forget."""
        with translated_errors(self._password_file):
            (deleted,) = self._redis.evaluate(_FORGET, [(self._key_prefix + user_id.encode(), ())])
        return bool(deleted)

    def ping(self) -> None:
        """See SessionStore.ping."""
        try:
            with translated_errors(self._password_file):
                self._redis.ping()
        except redis.exceptions.RedisError as error:
            raise Unavailable(f"Redis (NEXTCLICK_REDIS__URL): {error}") from None

    def servers(self) -> list[ServerInfo]:
        """The server, or the nodes of the cluster that have slots.

        Raises Unavailable if they do not answer, ConfigurationError if our user may not use INFO.
        """
        with translated_errors(self._password_file):
            return [_server_info(answer) for answer in self._redis.info()]

    def warn_of_evictions(self) -> None:
        """Log a warning if Redis drops keys when its memory is full. Raises Unavailable."""
        try:
            policies = {server.policy for server in self.servers() if server.evicts}
        except ConfigurationError:
            log.info("whether Redis evicts sessions is unknown: its user may not use INFO")
            return
        for policy in policies:
            log.warning(
                "Redis drops sessions when its memory is full (maxmemory-policy %s): their users "
                "begin anew, and their uncommitted clicks may stay unanswered; with noeviction "
                "workers wait instead",
                policy,
            )

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()


_ENTRY = struct.Struct(">8sBd")
"""Header of an entry of sessions.lua: digest, history length, session clock; the item follows."""


def _session(entries: list[bytes]) -> Session:
    """Decode the newest entries of a key, oldest first; entries of earlier sessions are skipped."""
    if not entries or len(entries[-1]) <= _ENTRY.size:
        return Session([])  # empty, or not a session: the next click replaces it
    _, length, clock = _ENTRY.unpack_from(entries[-1])
    history = [entry[_ENTRY.size :] for entry in entries[-length:]]
    if not (1 <= length <= HISTORY_LENGTH and 0 <= clock <= 2**53 and all(history)):
        return Session([])
    return Session([_text(item) for item in history], int(clock))


def _text(item: bytes) -> str:
    """Decode an item id; invalid UTF-8 gives an unknown item, not an error."""
    return item.decode(errors="replace")


def session_store(settings: Settings) -> RedisSessions:
    """The session store that the settings name."""
    return RedisSessions(
        settings.redis.url.get_secret_value(),
        key_prefix=settings.redis.key_prefix,
        gap_ms=int(settings.session.gap_seconds * 1000),
        ttl_seconds=settings.session.ttl_seconds,
        timeout_seconds=settings.redis.timeout_seconds,
        cluster=settings.redis.cluster,
        password_file=settings.redis.password_file,
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    digest: bytes
    item_id: str
    clock: int
    """Newest event time of the user up to this click, epoch ms."""
    length: int
    """Number of items in its history."""


@dataclass(frozen=True, slots=True)
class _User:
    expires: float
    fence: Place
    """Position of the newest entry on its topic; older positions are replays."""
    entries: list[_Entry]


class MemorySessions:
    """Session state in a dictionary of this process; `clock` (seconds) drives the expiry."""

    def __init__(
        self, *, gap_ms: int, ttl_seconds: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._gap_ms = gap_ms
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._users: dict[str, _User] = {}

    def append(
        self, clicks: Sequence[Click], places: Sequence[Place] | None = None
    ) -> list[list[str]]:
        """See SessionStore.append."""
        places = places or [_NOWHERE] * len(clicks)
        return [self._append(*one) for one in zip(clicks, places, strict=True)]

    def preview(self, clicks: Sequence[Click]) -> list[list[str]]:
        """See SessionStore.preview."""
        before = self._users.copy()
        try:
            return self.append(clicks)
        finally:
            self._users = before

    def _append(self, click: Click, place: Place) -> list[str]:
        user = self._users.get(click.user_id)
        entries = user.entries if user is not None and user.expires > self._clock() else []
        digest = event_digest(click.event_id)
        for position in reversed(range(len(entries))):
            if entries[position].digest == digest:
                return self._history(entries, position)

        length, clock = 1, click.timestamp
        if user is not None and entries:
            last = entries[-1]
            behind = place.partition == user.fence.partition and place.offset <= user.fence.offset
            if behind and place.offset >= 0 and click.timestamp <= last.clock:
                return []
            if not starts_new_session(last.clock, click.timestamp, self._gap_ms):
                length = min(last.length + 1, HISTORY_LENGTH)
            clock = max(last.clock, click.timestamp)
        entries = [*entries, _Entry(digest, click.item_id, clock, length)][-ENTRIES_KEPT:]
        self._users[click.user_id] = _User(self._clock() + self._ttl_seconds, place, entries)
        return self._history(entries, len(entries) - 1)

    @staticmethod
    def _history(entries: list[_Entry], position: int) -> list[str]:
        first = position - entries[position].length + 1
        return [entry.item_id for entry in entries[first : position + 1]] if first >= 0 else []

    def read(self, user_ids: Sequence[str]) -> list[Session]:
        """See SessionStore.read."""
        return [self._read(user_id) for user_id in user_ids]

    def _read(self, user_id: str) -> Session:
        user = self._users.get(user_id)
        if user is None or user.expires <= self._clock():
            return Session([])
        history = self._history(user.entries, len(user.entries) - 1)
        return Session(history, user.entries[-1].clock)

    def forget(self, user_id: str) -> bool:
        """See SessionStore.forget."""
        user = self._users.pop(user_id, None)
        return user is not None and user.expires > self._clock()

    def ping(self) -> None:
        """Always available: do nothing."""

    def close(self) -> None:
        """Do nothing: there is no connection."""
