"""Session state: the last HISTORY_LENGTH items of every user, with idempotent appends.

`SessionStore` is the interface, `RedisSessions` the implementation on Redis, `MemorySessions` one
in a dictionary, for tests and offline use. One contract suite (tests/contract) tests both.
"""

from __future__ import annotations

import hashlib
import logging
import math
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any, Protocol

import redis

from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.event_types import is_purchase
from nextclick.shared.messages import Place
from nextclick.shared.past import PAST_KEPT, PastClick
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
ENTRIES_KEPT_WITH_PAST = ENTRIES_KEPT + PAST_KEPT
"""The same where profiles keep out what users clicked: a replayed click finds its past, too."""

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
    past: list[PastClick] = field(default_factory=list)
    """The user's newest clicks, PAST_KEPT at most, oldest first; none if a store keeps no past."""


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

    def append_with_past(
        self, clicks: Sequence[Click], places: Sequence[Place] | None = None
    ) -> list[Session]:
        """As `append`; return the session of each as of this click, which ends history and past.

        Only for a store that keeps a past. A click that is replayed gets the past of its first
        append, as it gets the history. Raises Unavailable.
        """
        ...

    def preview(self, clicks: Sequence[Click]) -> list[list[str]]:
        """What `append` would return now; nothing is changed. Raises Unavailable."""
        ...

    def preview_with_past(self, clicks: Sequence[Click]) -> list[Session]:
        """What `append_with_past` would return now; nothing is changed. Raises Unavailable."""
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
_READ = Script("""
local list = redis.pcall('LRANGE', KEYS[1], -tonumber(ARGV[1]), -1)
if list.err then
  return string.find(list.err, 'WRONGTYPE', 1, true) and '' or redis.error_reply(list.err)
end
for i = 1, #list do list[i] = struct.pack('>H', #list[i] % 65536) .. list[i] end
return table.concat(list)
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
        past_days: float = 0,
        connect: Callable[..., RedisServer | RedisCluster] = connect,
    ) -> None:
        """Connects at the first call.

        `past_days`: for how long a past is kept; 0: none is. `cluster`: the URL is of any node of a
        cluster. `password_file`: holds the password, read at each connection. `connect` makes the
        client; a simulation has its own. Raises ConfigurationError if `url` is not a Redis URL, or
        cannot be that of a cluster, or if the file cannot be read.
        """
        self._redis = connect(url, timeout_seconds, cluster=cluster, password_file=password_file)
        self._password_file = password_file
        self._key_prefix = key_prefix.encode()
        self._script = Script(resources.files(__package__).joinpath("sessions.lua").read_text())
        self._anomalies = Anomalies()
        self._ttl_ms = ttl_seconds * 1000
        self._keeps_past = past_days > 0
        kept = ENTRIES_KEPT_WITH_PAST if self._keeps_past else ENTRIES_KEPT
        if self._keeps_past:  # keys live longer than sessions
            gap_ms = min(gap_ms or self._ttl_ms, self._ttl_ms)
            ttl_seconds = max(ttl_seconds, math.ceil(past_days * 86_400))
        longest, searched = ENTRIES_KEPT_WITH_PAST, ENTRIES_KEPT
        self._constants = (gap_ms, ttl_seconds, HISTORY_LENGTH, kept, longest, searched)

    def append(
        self, clicks: Sequence[Click], places: Sequence[Place] | None = None
    ) -> list[list[str]]:
        """See SessionStore.append. One round trip for any number of clicks."""
        found = self._append(clicks, places, 0, writes=True)
        return [[_text(item) for item in items] for items in found]

    def append_with_past(
        self, clicks: Sequence[Click], places: Sequence[Place] | None = None
    ) -> list[Session]:
        """See SessionStore.append_with_past. One round trip for any number of clicks."""
        found = self._append(clicks, places, PAST_KEPT, writes=True)
        return [_session(_split(entries), with_past=True) for entries in found]

    def preview(self, clicks: Sequence[Click]) -> list[list[str]]:
        """See SessionStore.preview. The same script, so the same rules; one round trip."""
        found = self._append(clicks, None, 0, writes=False)
        return [[_text(item) for item in items] for items in found]

    def preview_with_past(self, clicks: Sequence[Click]) -> list[Session]:
        """See SessionStore.preview_with_past. One round trip."""
        found = self._append(clicks, None, PAST_KEPT, writes=False)
        return [_session(_split(entries), with_past=True) for entries in found]

    def _append(
        self,
        clicks: Sequence[Click],
        places: Sequence[Place] | None,
        entries: int,
        *,
        writes: bool,
    ) -> list[Any]:
        """For each click what sessions.lua returns: items, or so many entries in one string."""
        places = places or [_NOWHERE] * len(clicks)
        of_user: dict[str, list[bytes | str | int]] = {}
        for click, (partition, offset) in zip(clicks, places, strict=True):
            constants = (*self._constants, entries, int(writes))
            arguments = of_user.setdefault(click.user_id, [*constants])
            digest = event_digest(click.event_id)
            bought = self._keeps_past and is_purchase(click.event_type)
            arguments += (digest, click.item_id, click.timestamp, partition, offset, int(bought))
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
        return [next(histories[click.user_id]) for click in clicks]

    def read(self, user_ids: Sequence[str]) -> list[Session]:
        """See SessionStore.read. One round trip for any number of users."""
        with translated_errors(self._password_file):
            newest = PAST_KEPT if self._keeps_past else HISTORY_LENGTH
            calls = [(self._key_prefix + user_id.encode(), (newest,)) for user_id in user_ids]
            answers = self._redis.evaluate(_READ, calls)
        sessions = [_session(_split(entries), self._keeps_past) for entries in answers]
        if self._keeps_past:
            sessions = [_as_read_now(session, self._ttl_ms) for session in sessions]
        return sessions

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
_BOUGHT = 128
"""Is added to the history length of an item that was bought."""


def _split(joined: bytes) -> list[bytes]:
    """The entries of a string, each of which stands after its length. A foreign value gives any."""
    entries, at = [], 0
    while at < len(joined):
        end = at + 2 + int.from_bytes(joined[at : at + 2])
        entries.append(joined[at + 2 : end])
        at = end
    return entries


def _session(entries: list[bytes], with_past: bool) -> Session:
    """Decode the newest entries of a key, oldest first; entries of earlier sessions are skipped."""
    if not entries or len(entries[-1]) <= _ENTRY.size:
        return Session([])  # empty, or not a session: the next click replaces it
    _, length, clock = _ENTRY.unpack_from(entries[-1])
    length %= _BOUGHT
    history = [entry[_ENTRY.size :] for entry in entries[-length:]]
    if not (1 <= length <= HISTORY_LENGTH and 0 <= clock <= 2**53 and all(history)):
        return Session([])
    return Session(
        [_text(item) for item in history], int(clock), _past(entries) if with_past else []
    )


def _past(entries: list[bytes]) -> list[PastClick]:
    """Decode entries; the fence, which may be among them, and what is none are left out."""
    past = []
    for entry in entries:
        if len(entry) > _ENTRY.size:
            _, mark, at = _ENTRY.unpack_from(entry)
            if 0 <= at <= 2**53:  # no NaN
                past.append(PastClick(_text(entry[_ENTRY.size :]), int(at), mark >= _BOUGHT))
    return past


def _as_read_now(session: Session, ttl_ms: int) -> Session:
    """Without the history of a session that ended; what is past lives longer than it."""
    ended = session.last_click is not None and session.last_click < time.time() * 1000 - ttl_ms
    return replace(session, history=[]) if ended else session


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
        past_days=settings.past_days,
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    digest: bytes
    item_id: str
    clock: int
    """Newest event time of the user up to this click, epoch ms."""
    length: int
    """Number of items in its history."""
    bought: bool


@dataclass(frozen=True, slots=True)
class _User:
    expires: float
    fence: Place
    """Position of the newest entry on its topic; older positions are replays."""
    entries: list[_Entry]


class MemorySessions:
    """Session state in a dictionary of this process; `clock` (seconds) drives the expiry."""

    def __init__(
        self,
        *,
        gap_ms: int,
        ttl_seconds: int,
        past_days: float = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keeps_past, self._ttl_ms = past_days > 0, ttl_seconds * 1000
        self._entries_kept = ENTRIES_KEPT_WITH_PAST if self._keeps_past else ENTRIES_KEPT
        if self._keeps_past:
            gap_ms = min(gap_ms or ttl_seconds * 1000, ttl_seconds * 1000)
            ttl_seconds = max(ttl_seconds, math.ceil(past_days * 86_400))
        self._gap_ms = gap_ms
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._users: dict[str, _User] = {}

    def append(
        self, clicks: Sequence[Click], places: Sequence[Place] | None = None
    ) -> list[list[str]]:
        """See SessionStore.append."""
        return [session.history for session in self.append_with_past(clicks, places)]

    def append_with_past(
        self, clicks: Sequence[Click], places: Sequence[Place] | None = None
    ) -> list[Session]:
        """See SessionStore.append_with_past."""
        places = places or [_NOWHERE] * len(clicks)
        return [self._append(*one) for one in zip(clicks, places, strict=True)]

    def preview(self, clicks: Sequence[Click]) -> list[list[str]]:
        """See SessionStore.preview."""
        return [session.history for session in self.preview_with_past(clicks)]

    def preview_with_past(self, clicks: Sequence[Click]) -> list[Session]:
        """See SessionStore.preview_with_past."""
        users, self._users = self._users, self._users.copy()
        try:
            return self.append_with_past(clicks)
        finally:
            self._users = users

    def _append(self, click: Click, place: Place) -> Session:
        user = self._users.get(click.user_id)
        entries = user.entries if user is not None and user.expires > self._clock() else []
        digest = event_digest(click.event_id)
        for position in reversed(range(max(0, len(entries) - ENTRIES_KEPT), len(entries))):
            if entries[position].digest == digest:
                return self._session(entries, position)

        length, clock = 1, click.timestamp
        if user is not None and entries:
            last = entries[-1]
            behind = place.partition == user.fence.partition and place.offset <= user.fence.offset
            if behind and place.offset >= 0 and click.timestamp <= last.clock:
                return Session([])
            if not starts_new_session(last.clock, click.timestamp, self._gap_ms):
                length = min(last.length + 1, HISTORY_LENGTH)
            clock = max(last.clock, click.timestamp)
        bought = self._keeps_past and is_purchase(click.event_type)
        entries = [*entries, _Entry(digest, click.item_id, clock, length, bought)]
        entries = entries[-self._entries_kept :]
        self._users[click.user_id] = _User(self._clock() + self._ttl_seconds, place, entries)
        return self._session(entries, len(entries) - 1)

    def _session(self, entries: list[_Entry], position: int) -> Session:
        """As of one of the entries."""
        first = position - entries[position].length + 1
        if first < 0:
            return Session([])
        before = entries[: position + 1]
        past = before[-PAST_KEPT:] if self._keeps_past else []
        return Session(
            [entry.item_id for entry in before[first:]],
            entries[position].clock,
            [PastClick(entry.item_id, entry.clock, entry.bought) for entry in past],
        )

    def read(self, user_ids: Sequence[str]) -> list[Session]:
        """See SessionStore.read."""
        return [self._read(user_id) for user_id in user_ids]

    def _read(self, user_id: str) -> Session:
        user = self._users.get(user_id)
        if user is None or user.expires <= self._clock():
            return Session([])
        session = self._session(user.entries, len(user.entries) - 1)
        return _as_read_now(session, self._ttl_ms) if self._keeps_past else session

    def forget(self, user_id: str) -> bool:
        """See SessionStore.forget."""
        user = self._users.pop(user_id, None)
        return user is not None and user.expires > self._clock()

    def ping(self) -> None:
        """Always available: do nothing."""

    def close(self) -> None:
        """Do nothing: there is no connection."""
