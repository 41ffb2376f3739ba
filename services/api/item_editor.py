"""Changes items by messages on the items topic, for the HTTP service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from nextclick.services.api.topic_publisher import TopicPublisher
from nextclick.shared.items import ItemTable, item_message, with_availability
from nextclick.shared.kafka import ItemCatalogue
from nextclick.shared.messages import OutMessage
from nextclick.shared.runtime.settings import KafkaSettings
from nextclick.shared.schemas import Item

Change = Callable[[ItemTable], dict[str, Item | None]]
"""What to say about items, given what is known; None retires one."""
_APPLIED_SECONDS = 1.0


class ItemEditor:
    """Publishes changes one after the other. Used by one thread."""

    def __init__(self, kafka: KafkaSettings, items: ItemCatalogue) -> None:
        self._topic = kafka.items_topic
        self._items = items
        self._publisher = TopicPublisher(kafka, self._topic)

    def apply(self, changes: Sequence[Change]) -> list[None]:
        """Publish changes, and wait until this process has read them, for a second at most.

        Raises BadItem if an item is too large, and as TopicPublisher.publish.
        """
        for change in changes:
            said = change(self._items.table)
            messages = [item_message(self._topic, *one) for one in said.items()]
            if messages:
                self._publisher.publish(messages)
                self._items.wait_until(partial(_knows, messages), _APPLIED_SECONDS)
        return [None] * len(changes)


def set_available(item_id: str, available: bool) -> Change:
    """Change only that; a retired item comes back by it."""

    def change(table: ItemTable) -> dict[str, Item | None]:
        item = with_availability(table, item_id, available)
        return {} if item is None else {item_id: item}

    return change


def _knows(messages: Sequence[OutMessage], table: ItemTable) -> bool:
    for message in messages:
        item_id = (message.key or b"").decode()
        if table.values.get(item_id) != message.value:
            return False
        if message.value is None and item_id not in table.states.retired:
            return False
    return True
