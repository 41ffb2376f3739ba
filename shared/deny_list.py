"""Items that no list from the HTTP service may hold: out of stock, hidden, recalled.

A set in Redis, so that every process sees a change, and beside it a number that every change
raises, so that looking for changes costs next to nothing. Both keys are in one slot of a cluster.
"""

from __future__ import annotations

from collections.abc import Collection

from shared.redis_client import client, explained
from shared.settings import Settings


class DenyList:
    """The set in Redis."""

    def __init__(self, url: str, *, key: str, timeout_seconds: float) -> None:
        """Prepare the client; it connects at the first call.

        Raises ConfigurationError if `url` is no Redis URL.
        """
        self._redis = client(url, timeout_seconds)
        self._items = f"{{{key}}}:items"
        self._version = f"{{{key}}}:version"

    def version(self) -> int:
        """A number that is another one after every change. Raises Unavailable."""
        with explained():
            return int(self._redis.get(self._version) or 0)

    def items(self) -> frozenset[str]:
        """The item ids. Raises Unavailable."""
        with explained():
            members: set[bytes] = self._redis.smembers(self._items)  # type: ignore[assignment]
        return frozenset(item.decode() for item in members)

    def add(self, item_ids: Collection[str]) -> None:
        """Recommend these no more. Raises Unavailable."""
        self._change("sadd", item_ids)

    def remove(self, item_ids: Collection[str]) -> None:
        """Recommend these again. Raises Unavailable."""
        self._change("srem", item_ids)

    def close(self) -> None:
        """Give the connections back."""
        self._redis.close()

    def _change(self, command: str, item_ids: Collection[str]) -> None:
        if not item_ids:
            return
        with explained(), self._redis.pipeline(transaction=True) as pipeline:
            getattr(pipeline, command)(self._items, *item_ids)
            pipeline.incr(self._version)
            pipeline.execute()


def deny_list(settings: Settings) -> DenyList:
    """The list that the settings name."""
    return DenyList(
        settings.redis.url.get_secret_value(),
        key=settings.api.deny_key,
        timeout_seconds=settings.redis.timeout_seconds,
    )
