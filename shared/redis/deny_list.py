"""Items that the HTTP service must not recommend: out of stock, hidden, recalled.

One hash in Redis, shared by all processes. Its fields are the item ids. The field with the empty
name holds a version number that every change increments, so that polling for changes is cheap.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from nextclick.shared.redis.client import Script, translated_errors
from nextclick.shared.redis.cluster import connect
from nextclick.shared.runtime.settings import Settings

_VERSION = Script("return redis.call('HGET', KEYS[1], '') or '0'")
_ITEMS = Script("return redis.call('HKEYS', KEYS[1])")
_ADD = Script("""
for _, item in ipairs(ARGV) do redis.call('HSET', KEYS[1], item, '') end
return redis.call('HINCRBY', KEYS[1], '', 1)
""")
_REMOVE = Script("""
for _, item in ipairs(ARGV) do redis.call('HDEL', KEYS[1], item) end
return redis.call('HINCRBY', KEYS[1], '', 1)
""")


class DenyList:
    """The hash in Redis."""

    def __init__(
        self, url: str, *, key: str, timeout_seconds: float, cluster: bool, password_file: str = ""
    ) -> None:
        """Connects at the first call. Raises ConfigurationError as RedisSessions does."""
        self._redis = connect(url, timeout_seconds, cluster=cluster, password_file=password_file)
        self._password_file = password_file
        self._key = key.encode()

    def version(self) -> int:
        """A number that changes with every change of the list. Raises Unavailable."""
        return int(self._evaluate(_VERSION))

    def items(self) -> frozenset[str]:
        """The denied item ids. Raises Unavailable."""
        return frozenset(item.decode() for item in self._evaluate(_ITEMS) if item)

    def add(self, item_ids: Collection[str]) -> None:
        """Deny these item ids. Raises Unavailable."""
        self._evaluate(_ADD, *item_ids)

    def remove(self, item_ids: Collection[str]) -> None:
        """Allow these item ids again. Raises Unavailable."""
        self._evaluate(_REMOVE, *item_ids)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _evaluate(self, script: Script, *arguments: str) -> Any:
        with translated_errors(self._password_file):
            (answer,) = self._redis.evaluate(script, [(self._key, arguments)])
        return answer


def deny_list(settings: Settings) -> DenyList:
    """The deny list that the settings name."""
    return DenyList(
        settings.redis.url.get_secret_value(),
        key=settings.api.deny_key,
        timeout_seconds=settings.redis.timeout_seconds,
        cluster=settings.redis.cluster,
        password_file=settings.redis.password_file,
    )
