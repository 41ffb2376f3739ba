"""A client of one Redis server, Lua scripts, and our errors for redis-py's.

No error text contains the login."""

from __future__ import annotations

import contextlib
import hashlib
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.runtime.secret_file import read_secret

_TRANSIENT = ("NOREPLICAS", "MISCONF", "BUSY")
"""Error replies that end when the server recovers: replicas missing, disk full, script running."""

_DENIED_IN_SCRIPT = ("ACL failure", "The user executing the script can't")
"""A command that a script may not run gives a plain ResponseError, not NoPermissionError. First
text: Redis 7.2 and Valkey; second: Redis 7.0."""

_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"""Parameters of a rediss:// URL that name a file."""

_PASSWORD_FILE = "NEXTCLICK_REDIS__PASSWORD_FILE"

OPTIONS: dict[str, Any] = {"protocol": 2, "driver_info": None}
"""Options of every client. driver_info None: no CLIENT SETINFO, for which Redis 7.0 has no ACL."""

Call: TypeAlias = tuple[bytes, Sequence[bytes | str | int]]
"""Key and arguments of one script call."""


class Script:
    """A Lua script and its SHA-1, by which EVALSHA calls it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode()).hexdigest()


class RedisServer:
    """One server. Its methods raise redis-py's errors; see `translated_errors`."""

    def __init__(self, url: str, timeout_seconds: float, password_file: str = "") -> None:
        """Connects at the first call. Raises as `client` does."""
        self._client = client(url, timeout_seconds, password_file)

    def evaluate(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """Run the script for each call, in one round trip; returns the replies in order."""
        try:
            return self._evaluate(script, calls)
        except redis.exceptions.NoScriptError:  # a new or restarted server
            self._client.script_load(script.text)
            return self._evaluate(script, calls)

    def _evaluate(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for key, arguments in calls:
            pipeline.evalsha(script.sha, 1, key, *arguments)
        return pipeline.execute()

    def ping(self) -> None:
        """Raise unless the server answers."""
        self._client.ping()

    def info(self) -> list[dict[str, Any]]:
        """What INFO says about the server: one dictionary."""
        return [self._client.info()]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class _PasswordFile(redis.CredentialProvider):
    """The login of the next connection: a user, and the password that is in a file by then."""

    def __init__(self, user: str, path: str) -> None:
        self._user = user
        self._path = path

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """What redis-py sends with AUTH."""
        try:
            password = read_secret(self._path, _PASSWORD_FILE)
        except ConfigurationError as error:  # it was readable at the start, so it is being replaced
            raise redis.exceptions.ConnectionError(str(error)) from None
        return (self._user, password) if self._user else (password,)


def login(url: str, password_file: str) -> tuple[str, dict[str, Any]]:
    """The URL and the options of a client, which logs in with the password in a file if given one.

    Raises ConfigurationError if the file cannot be read or the URL has a password, too, ValueError
    if it is no URL.
    """
    if not password_file:
        return url, {}
    parts = urlsplit(url)
    if parts.password is not None:
        raise ConfigurationError(
            f"NEXTCLICK_REDIS__URL has a password, and {_PASSWORD_FILE} names a file with one; "
            "leave it out of the URL: redis://user@host:port/db"
        )
    read_secret(password_file, _PASSWORD_FILE)
    user = unquote(parts.username or "")
    without_user = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return without_user, {"credential_provider": _PasswordFile(user, password_file)}


def client(url: str, timeout_seconds: float, password_file: str = "") -> redis.Redis:
    """Make a client; it connects at the first call.

    password_file: read at each connection; empty if the password is in the URL. Raises
    ConfigurationError if `url` is not a Redis URL, or names a file that cannot be read.
    """
    try:
        address, credentials = login(url, password_file)
        result = redis.Redis.from_url(
            address,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 1),
            **credentials,
            **OPTIONS,
        )
        result.connection_pool.connection_class(**result.connection_pool.connection_kwargs)
    except (ValueError, TypeError, redis.exceptions.RedisError):
        # The reason is left out: urllib quotes a part of the password if it looks like a port.
        raise ConfigurationError(
            "NEXTCLICK_REDIS__URL is no Redis URL; use redis://user:password@host:port/db, "
            "rediss://…?ssl_ca_certs=FILE or unix://…, and in a password write %2F for /, "
            "%23 for #, %3F for ? and %40 for @"
        ) from None
    for parameter in _FILES:
        name = result.connection_pool.connection_kwargs.get(parameter)
        if name is not None:
            _check_readable(parameter, name)
    return result


def _login_refused(error: Exception, password_file: str) -> ConfigurationError | Unavailable:
    if password_file:
        return Unavailable(
            f"Redis refused the login ({error}); trying again with the password that is then in "
            f"{password_file} ({_PASSWORD_FILE})"
        )
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
def translated_errors(password_file: str = "") -> Iterator[None]:
    """Translate redis-py's errors into ours.

    Raises Unavailable for errors that a retry may overcome, ConfigurationError for those that it
    cannot (password, permissions, certificates). A password in a file may change, so with one a
    login that is refused is tried again. Other errors, which are bugs, pass.
    """
    try:
        yield
    except redis.exceptions.AuthenticationError as error:
        raise _login_refused(error, password_file) from None
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
        # Before the login, a server refuses long commands with this plain error.
        if "unauthenticated" in str(error):
            raise _login_refused(error, password_file) from None
        if isinstance(error, redis.exceptions.NoPermissionError) or any(
            text in str(error) for text in _DENIED_IN_SCRIPT
        ):
            raise ConfigurationError(
                f"Redis does not permit this user what nextclick needs ({error}); "
                "SECURITY.md lists the permissions"
            ) from None
        if not any(word in str(error) for word in _TRANSIENT):
            raise
        raise Unavailable(f"Redis (NEXTCLICK_REDIS__URL): {error}") from None
