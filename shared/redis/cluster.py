"""Runs scripts on a Redis or Valkey Cluster, on all nodes at once, by redis-py's cluster client.

redis-py knows the nodes and their slots, and writes one pipeline to each node before it reads the
replies. Redirections and time-outs are handled here, because redis-py 8.1 handles them one call at
a time, each with its own time-out. Here a redirected call goes into the next pipeline, also to a
node that has no slot yet (where redis-py fails with an AttributeError). A call without a reply is
not retried, so a node that hangs costs one time-out.

Nodes fail independently: after an error, some calls have been run and others not. The caller runs
all of them again, so scripts must be idempotent; those for sessions are.
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
from nextclick.shared.redis.client import OPTIONS, Call, RedisServer, Script, client, login

_MAX_PIPELINES = 8
"""Most pipelines per call: slots move, and nodes learn of it one after the other."""
_REDIRECTIONS = (redis.exceptions.AskError, redis.exceptions.NoScriptError)
_Command: TypeAlias = tuple[ClusterNode, tuple[bytes | str | int, ...]]
_Client: TypeAlias = Any
"""redis.RedisCluster; most of it has no types."""
T = TypeVar("T")


class RedisCluster:
    """All nodes of a cluster. Its methods raise redis-py's errors; see `translated_errors`."""

    def __init__(self, url: str, timeout_seconds: float, password_file: str = "") -> None:
        """Connects at the first call.

        url: of any node, with the login and TLS parameters of all nodes. Raises ConfigurationError
        if it is not a Redis URL, or names a socket or a database (a cluster has only database 0).
        """
        options = client(url, timeout_seconds, password_file).connection_pool.connection_kwargs
        if "host" not in options or options.get("db"):
            raise ConfigurationError(
                "NEXTCLICK_REDIS__URL: a cluster (NEXTCLICK_REDIS__CLUSTER) is named by "
                "redis://host:port or rediss://host:port of one of its nodes, without a database"
            )
        self._url, self._credentials = login(url, password_file)
        self._address = (options["host"], int(options.get("port", 6379)))
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._cluster: _Client | None = None
        self._outdated = False
        """Whether to load the nodes and slots again before the next call."""

    def evaluate(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """Run the script for each call; one round trip, unless slots move or a node is new."""
        return self._run(lambda cluster: _evaluate(cluster, script, calls))

    def ping(self) -> None:
        """Raise unless every node that has slots answers."""
        self._run(lambda cluster: _send_to_primaries(cluster, "PING"))

    def info(self) -> list[dict[str, Any]]:
        """What INFO says about each node that has slots."""
        return self._run(lambda cluster: _send_to_primaries(cluster, "INFO"))

    def close(self) -> None:
        """Close the connections."""
        if self._cluster is not None:
            self._cluster.disconnect_connection_pools()

    def _run(self, action: Callable[[_Client], T]) -> T:
        try:
            return action(self._connected())
        except (redis.exceptions.RedisError, redis.exceptions.RedisClusterException) as error:
            self._outdated = True
            failure = _cause(error)
        raise failure  # outside of `except`, so that it keeps its own __context__

    def _connected(self) -> _Client:
        with self._lock:
            if self._cluster is None:
                self._cluster = redis.RedisCluster(
                    url=self._url,
                    socket_timeout=self._timeout_seconds,
                    socket_connect_timeout=self._timeout_seconds,
                    retry=Retry(NoBackoff(), 0),
                    **self._credentials,
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
    pending: dict[int, ClusterNode | None] = dict.fromkeys(range(len(calls)))
    """Index of a call → the node of an ASK redirection, or None: the node that has the slot."""
    without_script: set[ClusterNode] = set()
    """Nodes that lack the script because they are new or were restarted."""
    for _ in range(_MAX_PIPELINES):
        commands: list[_Command] = [(node, ("SCRIPT LOAD", script.text)) for node in without_script]
        without_script = set()
        positions = {}
        for number, ask_node in pending.items():
            key, arguments = calls[number]
            node = ask_node or cluster.get_node_from_key(key)
            if ask_node:
                commands.append((node, ("ASKING",)))
            positions[number] = len(commands)
            commands.append((node, ("EVALSHA", script.sha, 1, key, *arguments)))
        replies = _send(cluster, commands)
        for number, position in positions.items():
            node, answer = commands[position][0], replies[position]
            if isinstance(answer, redis.exceptions.NoScriptError):
                without_script.add(node)
            elif isinstance(answer, redis.exceptions.AskError):  # MovedError is a subclass
                pending[number] = _redirected(cluster, node, answer)
            else:
                answers[number] = answer
                del pending[number]
        if not pending:
            return answers
    raise Unavailable("Redis (NEXTCLICK_REDIS__URL): slots move, and nodes disagree where to")


def _send_to_primaries(cluster: _Client, *words: str) -> list[Any]:
    return _send(cluster, [(node, words) for node in cluster.get_primaries()])


def _send(cluster: _Client, commands: Sequence[_Command]) -> list[Any]:
    """Send one pipeline to each node; redirections and missing scripts are among the replies."""
    stack = [
        PipelineCommand(words, {"target_nodes": node}, position)  # type: ignore[no-untyped-call]
        for position, (node, words) in enumerate(commands)
    ]
    answers: list[Any] = cluster.pipeline().send_cluster_commands(
        stack, raise_on_error=False, allow_redirections=False
    )
    for answer in answers:
        if isinstance(answer, Exception) and not isinstance(answer, _REDIRECTIONS):
            raise answer
    return answers


def _redirected(
    cluster: _Client, node: ClusterNode, answer: redis.exceptions.AskError
) -> ClusterNode | None:
    """The node of an ASK redirection; None for MOVED, after which the slot table is updated."""
    answer.host = answer.host or node.host
    if isinstance(answer, redis.exceptions.MovedError):
        cluster.nodes_manager.move_slot(answer)
        return None
    known: ClusterNode | None = cluster.get_node(answer.host, answer.port)
    return known or ClusterNode(answer.host, answer.port)  # type: ignore[no-untyped-call]


def _cause(error: Exception) -> Exception:
    """The error that redis-py's cluster client wrapped, else a ClusterDownError."""
    inner: BaseException | None = error
    while isinstance(inner, redis.exceptions.RedisClusterException):
        inner = inner.__cause__ or inner.__context__
    if isinstance(inner, redis.exceptions.RedisError):
        return inner
    return redis.exceptions.ClusterDownError(str(error))


def connect(
    url: str, timeout_seconds: float, *, cluster: bool, password_file: str = ""
) -> RedisServer | RedisCluster:
    """A client of one server or of a cluster. Raises ConfigurationError as `client` does."""
    kind = RedisCluster if cluster else RedisServer
    return kind(url, timeout_seconds, password_file)
