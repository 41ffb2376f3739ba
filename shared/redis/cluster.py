"""A Redis or Valkey Cluster: which node has which key, and scripts run on all nodes at once.

redis-py's own cluster client is not used. By its code (8.1), what a node did not answer is sent
again call by call, each with a time-out of its own: a node that hangs would hold a batch up for
minutes. And it does not follow a slot to a node that has none yet. Here a batch is one pipeline per
node, all at the same time; what was redirected goes on to where it was sent; and a node that does
not answer costs one time-out.

Nodes fail one by one, so after an error some calls may have been run and others not. Running all of
them again must be right; for sessions it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any, NamedTuple, TypeVar

import redis
from redis.crc import key_slot

from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.redis.client import Call, RedisServer, Script, client

_ROUNDS = 8
"""How often a call is sent on, at most: slots move, and nodes learn of it one after the other."""
_NODES_AT_ONCE = 32
_SLOTS = 16_384
T = TypeVar("T")


class Address(NamedTuple):
    """Where a node is."""

    host: str
    port: int


class RedisCluster:
    """All nodes. Its methods raise what redis-py raises; see `client.explained`."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        """Prepare; it connects at the first call.

        url: of any node, with the login and TLS of all of them. Raises ConfigurationError if it is
        no Redis URL, of a socket, or names a database: a cluster has only number 0.
        """
        first = client(url, timeout_seconds).connection_pool
        self._kind, self._options = first.connection_class, first.connection_kwargs
        if "host" not in self._options or self._options.get("db"):
            raise ConfigurationError(
                "NEXTCLICK_REDIS__URL: a cluster (NEXTCLICK_REDIS__CLUSTER) is named by "
                "redis://host:port or rediss://host:port of one of its nodes, without a database"
            )
        self._first = Address(self._options["host"], int(self._options.get("port", 6379)))
        self._lock = threading.Lock()
        self._clients: dict[Address, redis.Redis] = {}
        self._owners: dict[int, Address] = {}
        """Slot → node; empty: to be asked for."""
        self._threads = ThreadPoolExecutor(_NODES_AT_ONCE, "redis")

    def evaluate(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """Run the script for each call; one round trip, unless slots move or a node is fresh."""
        answers: list[Any] = [None] * len(calls)
        waiting = list(range(len(calls)))
        asking: dict[int, Address] = {}
        for _ in range(_ROUNDS):
            owners = self._table() if waiting else {}
            by_node: dict[Address, list[int]] = {}
            for number in waiting:
                slot = key_slot(calls[number][0])
                if slot not in owners:
                    self._owners = {}
                    raise Unavailable(f"Redis (NEXTCLICK_REDIS__URL): no node serves slot {slot}")
                by_node.setdefault(asking.get(number, owners[slot]), []).append(number)
            jobs = {
                node: partial(self._run, node, script, [(calls[i], i in asking) for i in numbers])
                for node, numbers in by_node.items()
            }
            got = self._on_each(jobs)
            for node, numbers in by_node.items():
                for number, answer in zip(numbers, got[node], strict=True):
                    answers[number] = answer
            waiting, asking = self._redirected(waiting, answers, by_node)
            if not waiting:
                return answers
        raise Unavailable("Redis (NEXTCLICK_REDIS__URL): slots move, and nodes disagree where to")

    def ping(self) -> None:
        """Raise unless every node that has slots answers."""
        nodes = set(self._table().values())
        self._on_each({node: self._client(node).ping for node in nodes})

    def used_bytes(self) -> int:
        """Memory that all nodes with slots use."""
        nodes = set(self._table().values())
        return sum(int(self._client(node).info("memory")["used_memory"]) for node in nodes)

    def close(self) -> None:
        """Give the connections back."""
        self._threads.shutdown()
        for one in self._clients.values():
            one.close()

    def _run(self, node: Address, script: Script, calls: Sequence[tuple[Call, bool]]) -> list[Any]:
        """Run calls on one node; with True, after a redirection that holds once (ASK)."""
        answers = self._pipeline(node, script, calls)
        if any(isinstance(answer, redis.exceptions.NoScriptError) for answer in answers):
            self._client(node).script_load(script.text)  # a fresh or restarted node
            answers = self._pipeline(node, script, calls)
        return answers

    def _pipeline(
        self, node: Address, script: Script, calls: Sequence[tuple[Call, bool]]
    ) -> list[Any]:
        pipeline = self._client(node).pipeline(transaction=False)
        for (key, arguments), asking in calls:
            if asking:
                pipeline.execute_command("ASKING")  # type: ignore[no-untyped-call]
            pipeline.evalsha(script.sha, 1, key, *arguments)
        answers = iter(pipeline.execute(raise_on_error=False))
        found = []
        for _, asking in calls:
            asked = next(answers) if asking else None
            answer = next(answers)
            found.append(asked if isinstance(asked, Exception) else answer)
        return found

    def _redirected(
        self, waiting: list[int], answers: list[Any], by_node: dict[Address, list[int]]
    ) -> tuple[list[int], dict[int, Address]]:
        """Which calls must be sent on, and where those go that may go there once.

        Raises any other error among the answers.
        """
        asked_of = {number: node for node, numbers in by_node.items() for number in numbers}
        again, asking, moved = [], {}, {}
        for number in waiting:
            answer = answers[number]
            if not isinstance(answer, Exception):
                continue
            if not isinstance(answer, redis.exceptions.AskError):  # MOVED is one of these, too
                self._owners = {}
                raise answer
            again.append(number)
            target = Address(answer.host or asked_of[number].host, answer.port)
            if isinstance(answer, redis.exceptions.MovedError):
                moved[answer.slot_id] = target
            else:
                asking[number] = target
        if moved:  # what a node that had the slot says is newer than what others know
            self._owners = {**self._ask_for_owners(), **moved}
        return again, asking

    def _on_each(self, jobs: Mapping[Address, Callable[[], T]]) -> dict[Address, T]:
        """Do one thing on each node, at the same time; raises the first error when all are done."""
        futures = {node: self._threads.submit(job) for node, job in jobs.items()}
        wait(futures.values())
        for node, future in futures.items():
            if isinstance(future.exception(), redis.exceptions.RedisError):
                self._suspect(node)
        return {node: future.result() for node, future in futures.items()}

    def _suspect(self, node: Address) -> None:
        """Ask for the owners anew, and this node last."""
        with self._lock:
            self._owners = {}
            if node in self._clients:
                self._clients[node] = self._clients.pop(node)

    def _table(self) -> dict[int, Address]:
        owners = self._owners
        if not owners:
            self._owners = owners = self._ask_for_owners()
        return owners

    def _ask_for_owners(self) -> dict[int, Address]:
        """Slot → node, by the first node that knows all; the one of the URL is the last resort.

        One that has left the cluster still answers, and knows nothing.
        """
        with self._lock:
            known = [*self._clients, self._first]
        best: dict[int, Address] = {}
        trouble: redis.exceptions.RedisError | None = None
        for node in known:
            try:
                ranges = self._client(node).execute_command(  # type: ignore[no-untyped-call]
                    "CLUSTER SLOTS"
                )
            except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
                trouble = error
                continue
            owners = {
                slot: Address((host or b"").decode() or node.host, int(port))
                for first, last, (host, port, *_), *_ in ranges
                for slot in range(int(first), int(last) + 1)
            }
            if len(owners) == _SLOTS:
                return owners
            best = max(best, owners, key=len)
        if trouble is not None and not best:
            raise trouble
        return best

    def _client(self, node: Address) -> redis.Redis:
        with self._lock:
            if node not in self._clients:
                options = {**self._options, "host": node.host, "port": node.port}
                pool = redis.ConnectionPool(connection_class=self._kind, **options)
                self._clients[node] = redis.Redis(connection_pool=pool)
            return self._clients[node]


def connect(url: str, timeout_seconds: float, *, cluster: bool) -> RedisServer | RedisCluster:
    """Prepare one server or a cluster. Raises ConfigurationError if the URL is none of it."""
    return RedisCluster(url, timeout_seconds) if cluster else RedisServer(url, timeout_seconds)
