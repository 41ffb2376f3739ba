"""Items that no list from the HTTP service may hold: out of stock, hidden, recalled.

One hash in Redis, so that every process sees a change: its fields are the items, and the field
without a name holds a number that every change raises, so that looking for changes costs little.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from nextclick.shared.redis.client import Script, explained
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

    def __init__(self, url: str, *, key: str, timeout_seconds: float, cluster: bool) -> None:
        """Prepare the client; it connects at the first call.

        Raises ConfigurationError if `url` is no Redis URL.
        """
        self._redis = connect(url, timeout_seconds, cluster=cluster)
        self._key = key.encode()

    def version(self) -> int:
        """A number that is another one after every change. Raises Unavailable."""
        return int(self._evaluate(_VERSION))

    def items(self) -> frozenset[str]:
        """The item ids. Raises Unavailable."""
        return frozenset(item.decode() for item in self._evaluate(_ITEMS) if item)

    def add(self, item_ids: Collection[str]) -> None:
        """Recommend these no more. Raises Unavailable."""
        self._evaluate(_ADD, *item_ids)

    def remove(self, item_ids: Collection[str]) -> None:
        """Recommend these again. Raises Unavailable."""
        self._evaluate(_REMOVE, *item_ids)

    def close(self) -> None:
        """Give the connections back."""
        self._redis.close()

    def _evaluate(self, script: Script, *arguments: str) -> Any:
        with explained():
            (answer,) = self._redis.evaluate(script, [(self._key, arguments)])
        return answer


def deny_list(settings: Settings) -> DenyList:
    """The list that the settings name."""
    return DenyList(
        settings.redis.url.get_secret_value(),
        key=settings.api.deny_key,
        timeout_seconds=settings.redis.timeout_seconds,
        cluster=settings.redis.cluster,
    )
