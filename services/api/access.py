"""Who may use the HTTP service: API keys, limits on guesses and requests, Host and Origin."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from hashlib import sha256
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.types import Scope

from nextclick.services.api.problems import Rejected
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.runtime.masking import mask_from_now_on
from nextclick.shared.runtime.secret_file import read_secret
from nextclick.shared.runtime.settings import ApiSettings

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Addresses, and names in the header Host, that only this machine can reach."""
PROBES = ("/healthz", "/readyz")
"""Paths that anybody may read: they name no user, no item and no key."""
READ_SECONDS = 1.0
"""Between two looks at the file of keys."""

_KEY_FILE = "NEXTCLICK_API__KEY_FILE"
_MAX_BUCKETS = 10_000
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class TokenBuckets:
    """A token bucket for each address or key.

    A bucket holds `burst` tokens at most and gains `per_second`. Only the `most` buckets that were
    used last are kept, so memory is bounded.
    """

    def __init__(
        self,
        per_second: float,
        burst: float,
        *,
        most: int = _MAX_BUCKETS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_second = per_second
        self._burst = burst
        self._most = most
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Tokens, and when there were so many; the least recently used first."""

    def __len__(self) -> int:
        return len(self._buckets)

    def seconds_until_token(self, name: str) -> float:
        """0 if the bucket holds a token, else how long until it does."""
        return max(0.0, (1 - self._tokens(name)) / self._per_second)

    def take(self, name: str) -> float:
        """Take a token; returns 0, or if there is none, the seconds until there is one."""
        tokens = self._tokens(name)
        if tokens < 1:
            return (1 - tokens) / self._per_second
        self._buckets[name] = (tokens - 1, self._clock())
        self._buckets.move_to_end(name)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return 0.0

    def _tokens(self, name: str) -> float:
        if name not in self._buckets:
            return self._burst
        tokens, at = self._buckets[name]
        return min(self._burst, tokens + (self._clock() - at) * self._per_second)


class Keys:
    """The API keys that are accepted now: one from the settings, and the lines of a file.

    The file is read again at most once in READ_SECONDS, so keys are rotated without a restart. If
    it cannot be read any more the last keys stay.
    """

    def __init__(
        self, key: str, path: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises ConfigurationError if there is a file and it cannot be read, or has no key."""
        self._key = key
        self._path = path
        self._clock = clock
        self._digests = self._read()
        self._read_at = clock()

    def __bool__(self) -> bool:
        """Whether a key is needed at all."""
        return bool(self._digests)

    def name_of(self, given: str) -> str | None:
        """A name for a key that is accepted (a hash, no secret), None for any other.

        The time that this takes does not depend on how much of a key is right.
        """
        if self._path and self._clock() - self._read_at >= READ_SECONDS:
            self._read_at = self._clock()
            with contextlib.suppress(ConfigurationError):
                self._digests = self._read()
        digest = sha256(given.encode(errors="surrogateescape")).digest()
        matches = [known for known in self._digests if hmac.compare_digest(known, digest)]
        return matches[0].hex()[:16] if matches else None

    def _read(self) -> Sequence[bytes]:
        keys = {self._key} - {""}
        if self._path:
            lines = {line.strip() for line in read_secret(self._path, _KEY_FILE).splitlines()}
            if not lines - {""}:
                raise ConfigurationError(f"{_KEY_FILE} = {self._path} has no key")
            keys |= lines - {""}
        for key in keys:
            mask_from_now_on(key)
        return [sha256(key.encode()).digest() for key in sorted(keys)]


class Access:
    """Decides whether a request is let in. Used in the event loop only."""

    def __init__(
        self,
        keys: Keys,
        *,
        allowed_hosts: Collection[str] = (),
        wrong_keys_per_minute: int = 10,
        requests_per_second: float = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`allowed_hosts`: names in the header Host; empty: all with a key, else LOOPBACK."""
        self._keys = keys
        self._any_host = "*" in allowed_hosts or (bool(keys) and not allowed_hosts)
        self._hosts = frozenset(host.lower() for host in allowed_hosts or LOOPBACK)
        self._origins = frozenset(host.lower() for host in allowed_hosts)
        self._wrong_keys = TokenBuckets(
            wrong_keys_per_minute / 60, wrong_keys_per_minute, clock=clock
        )
        self._requests = (
            TokenBuckets(requests_per_second, max(1.0, requests_per_second), clock=clock)
            if requests_per_second
            else None
        )
        self.open_paths: set[str] = set(PROBES)
        """Paths that need no key. A page adds those of its sign-in."""
        self.open_folders: tuple[str, ...] = ()
        """The same for all paths that begin with one of these."""
        self.is_signed_in: Callable[[Scope], bool] = lambda _: False
        """Whether a request without a key may pass all the same, as that of a signed-in page."""

    @property
    def needs_key(self) -> bool:
        """Whether there are keys."""
        return bool(self._keys)

    def accepts(self, key: str) -> bool:
        """Whether this is one of the keys. Counts nothing: for keys that were right once."""
        return self._keys.name_of(key) is not None

    def check(self, scope: Scope) -> None:
        """Raise Rejected unless an HTTP or WebSocket request may be handled."""
        if scope["path"] in PROBES:
            return
        host = origin = None
        for name, value in scope["headers"]:
            if name == b"host":
                host = value.decode("latin-1")
            elif name == b"origin":
                origin = value.decode("latin-1")
        self._check_host(host)
        if origin is not None and scope.get("method") not in _SAFE_METHODS:
            self._check_origin(origin, host)
        if self._keys and not self._is_open(scope["path"]):
            self._check_login(scope)

    def check_key(self, given: str, address: str) -> None:
        """Raise Rejected unless `given` is a key: 401, or 429 after too many wrong ones.

        Wrong keys are counted per address; with none left, a right one is refused, too, else
        guessing would go on. `address`: of `client_address`.
        """
        seconds = self._wrong_keys.seconds_until_token(address)
        if seconds > 0:
            raise _too_many("too many wrong keys from this address", seconds)
        name = self._keys.name_of(given)
        if name is None:
            self._wrong_keys.take(address)
            raise _unauthorized("the key is wrong")
        if self._requests is not None and (seconds := self._requests.take(name)):
            raise _too_many("too many requests with this key", seconds)

    def _is_open(self, path: str) -> bool:
        return path in self.open_paths or (
            bool(self.open_folders) and path.startswith(self.open_folders)
        )

    def _check_login(self, scope: Scope) -> None:
        given = key_of(scope)
        if given is not None:
            self.check_key(given, client_address(scope))
        elif not self.is_signed_in(scope):
            raise _unauthorized("the header X-API-Key is missing")

    def _check_host(self, host: str | None) -> None:
        if self._any_host or host is None:  # HTTP/1.0; the server refuses HTTP/1.1 without Host
            return
        if _host_name(host) not in self._hosts:
            raise Rejected(
                HTTPStatus.MISDIRECTED_REQUEST,
                "the header Host names another host than NEXTCLICK_API__ALLOWED_HOSTS",
            )

    def _check_origin(self, origin: str, host: str | None) -> None:
        """A browser says where a page comes from: no page of others may change anything here."""
        origin_host = origin.partition("://")[2].lower()
        same = host is not None and origin_host == host.lower()
        if not same and _host_name(origin_host) not in self._origins:
            raise Rejected(HTTPStatus.FORBIDDEN, "the request comes from a page of another origin")


def access(settings: ApiSettings) -> Access:
    """The access that the settings ask for. Raises ConfigurationError for a file without keys."""
    return Access(
        Keys(settings.key.get_secret_value(), settings.key_file),
        allowed_hosts=settings.allowed_hosts,
        wrong_keys_per_minute=settings.wrong_keys_per_minute,
        requests_per_second=settings.requests_per_second,
    )


def check_listening_address(settings: ApiSettings) -> None:
    """Raise ConfigurationError if others could reach the service and it has no key."""
    if settings.key.get_secret_value() or settings.key_file or settings.host in LOOPBACK:
        return
    raise ConfigurationError(
        f"NEXTCLICK_API__HOST = {settings.host} without a key: whoever reaches it could send "
        "clicks, read sessions and move the model. Set NEXTCLICK_API__KEY or "
        f"{_KEY_FILE}, or listen on 127.0.0.1"
    )


def key_of(scope: Scope) -> str | None:
    """The key that a request carries, right or wrong; X-API-Key goes before Authorization."""
    bearer = None
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            return str(value.decode("utf-8", "surrogateescape"))
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            bearer = value[7:].strip().decode("utf-8", "surrogateescape")
    return bearer


def client_address(scope: Scope) -> str:
    """Whom limits count: an IPv4 address, or the /64 network of an IPv6 address."""
    address = (scope.get("client") or ("unknown",))[0]
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return str(address)
    if found.version == 6 and found.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
    return str(address)


def _host_name(host: str) -> str:
    """`Example.org:8000` → `example.org`, `[::1]:8000` → `::1`; empty if it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _unauthorized(detail: str) -> Rejected:
    return Rejected(HTTPStatus.UNAUTHORIZED, detail, {"WWW-Authenticate": "Bearer"})


def _too_many(detail: str, seconds: float) -> Rejected:
    return Rejected(HTTPStatus.TOO_MANY_REQUESTS, detail, {"Retry-After": str(math.ceil(seconds))})
