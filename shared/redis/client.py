"""One Redis server: a client from a URL, a script, and what errors mean. No error has a login."""

from __future__ import annotations

import contextlib
import hashlib
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from nextclick.shared.errors import ConfigurationError, Unavailable

_HEALS = ("NOREPLICAS", "MISCONF", "BUSY")
"""Refusals that end when the server recovers: replicas missing, disk full, failing over."""

_DENIED_IN_SCRIPT = ("ACL failure", "The user executing the script can't")
"""A command that a script may not run is a plain error, not NoPermissionError: from Redis 7.2 and
Valkey, and from Redis 7.0."""

_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"""Parameters of a rediss:// URL that name a file."""

OPTIONS: dict[str, Any] = {"protocol": 2, "driver_info": None}
"""Of every client. No CLIENT SETINFO: Redis 7.0 has no permission of that name."""

Call: TypeAlias = tuple[bytes, Sequence[bytes | str | int]]
"""A script's key and arguments."""


class Script:
    """Lua, and the name that a server knows it by once it has seen it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode()).hexdigest()


class RedisServer:
    """One server. Its methods raise what redis-py raises; see `explained`."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        """Prepare; it connects at the first call. Raises as `client` does."""
        self._client = client(url, timeout_seconds)

    def evaluate(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """Run the script for each call, in one round trip."""
        try:
            return self._evaluate(script, calls)
        except redis.exceptions.NoScriptError:  # a fresh or restarted server
            self._client.script_load(script.text)
            return self._evaluate(script, calls)

    def _evaluate(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for key, arguments in calls:
            pipeline.evalsha(script.sha, 1, key, *arguments)
        return pipeline.execute()

    def ping(self) -> None:
        """Raise unless it answers."""
        self._client.ping()

    def used_bytes(self) -> int:
        """Memory that it uses for everything in it."""
        return int(self._client.info("memory")["used_memory"])

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()


def client(url: str, timeout_seconds: float) -> redis.Redis:
    """Prepare a client; it connects at the first call.

    Raises ConfigurationError if `url` is no Redis URL, or names a file that cannot be read.
    """
    try:
        made = redis.Redis.from_url(
            url,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 1),
            **OPTIONS,
        )
        made.connection_pool.connection_class(**made.connection_pool.connection_kwargs)
    except (ValueError, TypeError, redis.exceptions.RedisError):
        # Not the reason: urllib quotes a piece of the password if it takes it for the port.
        raise ConfigurationError(
            "NEXTCLICK_REDIS__URL is no Redis URL; use redis://user:password@host:port/db, "
            "rediss://…?ssl_ca_certs=FILE or unix://…, and in a password write %2F for /, "
            "%23 for #, %3F for ? and %40 for @"
        ) from None
    for parameter in _FILES:
        name = made.connection_pool.connection_kwargs.get(parameter)
        if name is not None:
            _check_readable(parameter, name)
    return made


def _login_refused(error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"Redis refused the login ({error}); check the user and the password in "
        "NEXTCLICK_REDIS__URL"
    )


def _check_readable(parameter: str, name: str) -> None:
    try:
        with Path(name).open("rb"):
            pass
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"NEXTCLICK_REDIS__URL: {parameter}={name} cannot be read "
            f"({getattr(error, 'strerror', error)})"
        ) from None


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn what the client raises into what a person or RetryUntilAvailable can act on.

    Raises ConfigurationError for what waiting does not heal (password, permissions,
    certificates), Unavailable for what it may.
    """
    try:
        yield
    except redis.exceptions.AuthenticationError as error:
        raise _login_refused(error) from None
    except (
        redis.exceptions.ConnectionError,
        redis.exceptions.TimeoutError,
        redis.exceptions.ReadOnlyError,
        redis.exceptions.OutOfMemoryError,
        redis.exceptions.ClusterDownError,
        redis.exceptions.TryAgainError,
    ) as error:
        if isinstance(error.__cause__ or error.__context__, ssl.SSLCertVerificationError):
            raise ConfigurationError(
                f"Redis's certificate is not trusted ({error}); give its CA by "
                "?ssl_ca_certs=FILE in NEXTCLICK_REDIS__URL"
            ) from None
        raise Unavailable(f"Redis (NEXTCLICK_REDIS__URL): {error}") from None
    except redis.exceptions.MovedError:
        raise ConfigurationError(
            "this Redis is a cluster: set NEXTCLICK_REDIS__CLUSTER=true"
        ) from None
    except redis.exceptions.ResponseError as error:
        if "cluster support disabled" in str(error):
            raise ConfigurationError(
                "NEXTCLICK_REDIS__CLUSTER is true and the server at NEXTCLICK_REDIS__URL is no "
                "cluster; set it to false"
            ) from None
        # A server that nobody has logged in to does not even read a long command.
        if "unauthenticated" in str(error):
            raise _login_refused(error) from None
        if isinstance(error, redis.exceptions.NoPermissionError) or any(
            text in str(error) for text in _DENIED_IN_SCRIPT
        ):
            raise ConfigurationError(
                f"Redis lets this user not do what the worker needs ({error}); "
                "SECURITY.md lists the permissions"
            ) from None
        if not any(word in str(error) for word in _HEALS):
            raise
        raise Unavailable(f"Redis (NEXTCLICK_REDIS__URL): {error}") from None
