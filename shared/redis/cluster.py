"""A Redis or Valkey Cluster: scripts run on all nodes at once, by redis-py's cluster client.

redis-py knows the nodes and their slots, and writes one pipeline to each node before it reads. Two
things are done here, because redis-py 8.1 does them call by call, each with a time-out of its own:
a call that was redirected is sent on in the next pipeline, also to a node that has no slot yet
(where redis-py fails with an AttributeError); and a call that was not answered is not sent again,
so a node that hangs costs one time-out.

Nodes fail one by one, so after an error some calls may have been run and others not. Running all of
them again must be right; for sessions it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, PipelineCommand
from redis.retry import Retry

from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.redis.client import OPTIONS, Call, RedisServer, Script, client

_ROUNDS = 8
"""How often a call is sent on, at most: slots move, and nodes learn of it one after the other."""
_SENT_ON = (redis.exceptions.AskError, redis.exceptions.NoScriptError)
_Command: TypeAlias = tuple[ClusterNode, tuple[bytes | str | int, ...]]
_Client: TypeAlias = Any
"""redis.RedisCluster; most of it has no types."""
T = TypeVar("T")


class RedisCluster:
    """All nodes. Its methods raise what redis-py raises; see `client.explained`."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        """Prepare; it connects at the first call.

        url: of any node, with the login and TLS of all of them. Raises ConfigurationError if it is
        no Redis URL, of a socket, or names a database: a cluster has only number 0.
        """
        options = client(url, timeout_seconds).connection_pool.connection_kwargs
        if "host" not in options or options.get("db"):
            raise ConfigurationError(
                "NEXTCLICK_REDIS__URL: a cluster (NEXTCLICK_REDIS__CLUSTER) is named by "
                "redis://host:port or rediss://host:port of one of its nodes, without a database"
            )
        self._url = url
        self._address = (options["host"], int(options.get("port", 6379)))
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._cluster: _Client | None = None
        self._outdated = False
        """Whether to ask for nodes and slots again."""

    def evaluate(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """Run the script for each call; one round trip, unless slots move or a node is fresh."""
        return self._run(lambda cluster: _evaluate(cluster, script, calls))

    def ping(self) -> None:
        """Raise unless every node that has slots answers."""
        self._run(lambda cluster: _ask_primaries(cluster, "PING"))

    def used_bytes(self) -> int:
        """Memory that all nodes with slots use."""
        answers = self._run(lambda cluster: _ask_primaries(cluster, "INFO", "memory"))
        return sum(int(answer["used_memory"]) for answer in answers)

    def close(self) -> None:
        """Give the connections back."""
        if self._cluster is not None:
            self._cluster.disconnect_connection_pools()

    def _run(self, action: Callable[[_Client], T]) -> T:
        try:
            return action(self._connected())
        except (redis.exceptions.RedisError, redis.exceptions.RedisClusterException) as error:
            self._outdated = True
            failure = _cause(error)
        raise failure  # out here, so that its own context stays

    def _connected(self) -> _Client:
        with self._lock:
            if self._cluster is None:
                self._cluster = redis.RedisCluster(
                    url=self._url,
                    socket_timeout=self._timeout_seconds,
                    socket_connect_timeout=self._timeout_seconds,
                    retry=Retry(NoBackoff(), 0),
                    **OPTIONS,
                )
            elif self._outdated:
                self._cluster.nodes_manager.initialize(
                    additional_startup_nodes_info=[self._address]
                )
            self._outdated = False
            return self._cluster


def _evaluate(cluster: _Client, script: Script, calls: Sequence[Call]) -> list[Any]:
    answers: list[Any] = [None] * len(calls)
    waiting: dict[int, ClusterNode | None] = dict.fromkeys(range(len(calls)))
    """Call → the node that takes it this once (ASK), or None: the one that has the slot."""
    fresh: set[ClusterNode] = set()
    """Nodes that lack the script: new, or restarted."""
    for _ in range(_ROUNDS):
        commands: list[_Command] = [(node, ("SCRIPT LOAD", script.text)) for node in fresh]
        fresh = set()
        positions = {}
        for number, asked in waiting.items():
            key, arguments = calls[number]
            node = asked or cluster.get_node_from_key(key)
            if asked:
                commands.append((node, ("ASKING",)))
            positions[number] = len(commands)
            commands.append((node, ("EVALSHA", script.sha, 1, key, *arguments)))
        got = _send(cluster, commands)
        for number, position in positions.items():
            node, answer = commands[position][0], got[position]
            if isinstance(answer, redis.exceptions.NoScriptError):
                fresh.add(node)
            elif isinstance(answer, redis.exceptions.AskError):  # MOVED is one of these, too
                waiting[number] = _redirected(cluster, node, answer)
            else:
                answers[number] = answer
                del waiting[number]
        if not waiting:
            return answers
    raise Unavailable("Redis (NEXTCLICK_REDIS__URL): slots move, and nodes disagree where to")


def _ask_primaries(cluster: _Client, *words: str) -> list[Any]:
    return _send(cluster, [(node, words) for node in cluster.get_primaries()])


def _send(cluster: _Client, commands: Sequence[_Command]) -> list[Any]:
    """One pipeline to each node; redirections and missing scripts are among the answers."""
    stack = [
        PipelineCommand(words, {"target_nodes": node}, position)  # type: ignore[no-untyped-call]
        for position, (node, words) in enumerate(commands)
    ]
    answers: list[Any] = cluster.pipeline().send_cluster_commands(
        stack, raise_on_error=False, allow_redirections=False
    )
    for answer in answers:
        if isinstance(answer, Exception) and not isinstance(answer, _SENT_ON):
            raise answer
    return answers


def _redirected(
    cluster: _Client, node: ClusterNode, answer: redis.exceptions.AskError
) -> ClusterNode | None:
    """The node to ask once, or None: the slot was moved for good, and the cluster knows."""
    answer.host = answer.host or node.host
    if isinstance(answer, redis.exceptions.MovedError):
        cluster.nodes_manager.move_slot(answer)
        return None
    known: ClusterNode | None = cluster.get_node(answer.host, answer.port)
    return known or ClusterNode(answer.host, answer.port)  # type: ignore[no-untyped-call]


def _cause(error: Exception) -> Exception:
    """What redis-py's cluster client wrapped, or a ClusterDownError that says the same."""
    inner: BaseException | None = error
    while isinstance(inner, redis.exceptions.RedisClusterException):
        inner = inner.__cause__ or inner.__context__
    if isinstance(inner, redis.exceptions.RedisError):
        return inner
    return redis.exceptions.ClusterDownError(str(error))


def connect(url: str, timeout_seconds: float, *, cluster: bool) -> RedisServer | RedisCluster:
    """Prepare one server or a cluster. Raises ConfigurationError if the URL is none of it."""
    return RedisCluster(url, timeout_seconds) if cluster else RedisServer(url, timeout_seconds)
