"""A Redis that runs sessions.lua, written again in Python.

tests/contract/test_sessions.py runs the contract of the session store on this, too, and compares it
with a real server.

Rules of the model: a pipeline's calls run one after the other, all of them or none (that a broken
connection leaves the last of them out is not modelled). What was written stays (`appendonly yes`,
`appendfsync always`) until keys are evicted, or all are flushed; nobody else writes here. A request
that is held runs when it arrives, whatever the client did since.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import redis

from nextclick.shared.redis import sessions
from nextclick.shared.redis.client import Call, Script
from tests.simulation.network import Connection, Reply, Server, TimedOut
from tests.simulation.scheduler import Process

_ENTRY = struct.Struct(">8sBd")
_FENCE = struct.Struct(">id")


class Lists:
    """The keys of a server."""

    def __init__(self) -> None:
        self._lists: dict[bytes, list[bytes]] = {}

    @property
    def keys(self) -> list[bytes]:
        """Of all users who are known."""
        return list(self._lists)

    def drop(self, keys: Iterable[bytes]) -> None:
        """Eviction, or FLUSHALL."""
        for key in keys:
            del self._lists[key]

    def evaluate(self, script: Script, call: Call) -> Any:
        """Run one of the scripts of shared/redis/sessions.py."""
        key, arguments = call
        if script is sessions._FORGET:
            return int(self._lists.pop(key, None) is not None)
        if script is sessions._READ:
            return _joined(self._lists.get(key, [])[-int(arguments[0]) :])
        gap, _, history_length, keep, _, searched, returned, writes, *clicks = arguments
        entries = self._lists.setdefault(key, []) if writes else [*self._lists.get(key, [])]
        lua = _Append(
            entries, int(gap), int(history_length), int(keep), int(searched), int(returned)
        )
        return [0, 0, *(lua.append(*clicks[i : i + 6]) for i in range(0, len(clicks), 6))]


def _joined(entries: list[bytes]) -> bytes:
    return b"".join(struct.pack(">H", len(entry)) + entry for entry in entries)


class _Append:
    """sessions.lua, name by name."""

    def __init__(
        self,
        entries: list[bytes],
        gap: int,
        history_length: int,
        keep: int,
        searched: int,
        returned: int,
    ) -> None:
        self._list, self._gap = entries, gap
        self._history_length, self._keep = history_length, keep
        self._searched, self._returned = searched, returned

    def _history_at(self, position: int) -> Any:
        first = position - self._list[position][8] % 128 + 1
        if first < 1:
            return self._nothing
        if self._returned:
            return _joined(self._list[max(1, position - self._returned + 1) : position + 1])
        return [e[17:] for e in self._list[first : position + 1]]

    @property
    def _nothing(self) -> Any:
        return b"" if self._returned else []

    def append(
        self, digest: Any, item: Any, timestamp: Any, partition: Any, offset: Any, bought: Any
    ) -> Any:
        entries = self._list
        for position in range(len(entries) - 1, max(0, len(entries) - 1 - self._searched), -1):
            if entries[position][:8] == digest:
                return self._history_at(position)
        length, clock = 1, timestamp
        if len(entries) > 1:
            _, last_length, last_clock = _ENTRY.unpack_from(entries[-1])
            last_partition, last_offset = _FENCE.unpack(entries[0])
            if (
                partition == last_partition
                and 0 <= offset <= last_offset
                and timestamp <= last_clock
            ):
                return self._nothing
            if not (self._gap > 0 and timestamp - last_clock > self._gap):
                length = min(last_length % 128 + 1, self._history_length)
            clock = max(last_clock, timestamp)
        fence = _FENCE.pack(partition, offset)
        if not entries:
            entries.append(fence)
        else:
            del entries[1 : 1 + max(0, len(entries) - self._keep)]
        entries[0] = fence
        entries.append(_ENTRY.pack(digest, length + 128 * bought, clock) + item.encode())
        return self._history_at(len(entries) - 1)


class LocalRedis:
    """The server without a network in between, for the contract tests."""

    def __init__(self) -> None:
        self._lists = Lists()

    def evaluate(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """See RedisServer.evaluate."""
        return [self._lists.evaluate(script, call) for call in calls]

    def close(self) -> None:
        """Nothing to give back."""


class RedisClient:
    """What RedisSessions has in the place of a RedisServer."""

    def __init__(
        self, process: Process, server: Server, lists: Lists, timeout_seconds: float
    ) -> None:
        self._server = server
        self._lists = lists
        self._timeout_seconds = timeout_seconds
        self._connection = Connection(process, server, "redis")

    def evaluate(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """See RedisServer.evaluate."""
        answers: list[Any] = []

        def run(reply: Reply) -> None:
            answers.clear()
            for call in calls:
                answers.append(self._lists.evaluate(script, call))
            reply(answers)

        try:
            answer = self._connection.request_once("append", run, self._timeout_seconds)
        except TimedOut as error:
            raise redis.exceptions.TimeoutError(str(error)) from None
        if answer is None:
            raise redis.exceptions.ConnectionError("the connection broke")
        return list(answer)

    def close(self) -> None:
        """Nothing to give back."""
