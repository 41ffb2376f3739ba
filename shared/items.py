"""Where an item message goes: what the items topic says, and which items no list may hold. Pure.

The topic is compacted, its key is the item_id, and it has one partition, so an offset is a version
of all items. The newest message of an item counts, as a whole:

    a value                       the item's attributes
    "available": false            the item is in no list; models still learn it
    no value (a tombstone)        the item is retired: in no list, and not in the next model
    not an item                   refused: counted and logged; the message before it counts

Who reads it: `shared/kafka/item_catalogue.py` follows it in worker and api; the trainer reads
it before a fit. Who obeys: `shared/model/scorer.py` leaves `withheld` items out of its top-k,
`trainer/retrain.py` leaves out clicks on `retired` ones, and the page shows `titles`. Who writes: a
shop, `nextclick items` and the HTTP service, by `item_message`.

A recommendation has the offset that was applied (`items_offset`), so it can be computed again: the
topic keeps every message for as long as recommendations are kept (topics.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic_core import PydanticSerializationError

from nextclick.shared.errors import BadItem
from nextclick.shared.messages import Message, OutMessage
from nextclick.shared.schemas import Item, decode_item


@dataclass(frozen=True, slots=True)
class ItemStates:
    """An immutable snapshot of what the topic says."""

    offset: int = 0
    """All messages before this one are applied."""
    withheld: frozenset[str] = frozenset()
    """Items that no list may hold. The same object as long as nothing changes."""
    retired: frozenset[str] = frozenset()
    """Those of them that the next model does not learn either."""


class ItemTable:
    """Applies the messages of the topic, in their order."""

    def __init__(self, *, keep_values: bool = False) -> None:
        """keep_values: keep attributes, too, for those who show them."""
        self.states = ItemStates()
        self.values: dict[str, bytes] = {}
        """Item id → the value of its newest valid message."""
        self.titles: dict[str, str] = {}
        """Item id → its title; only items that have one."""
        self._keep_values = keep_values
        self._withheld: set[str] = set()
        self._retired: set[str] = set()

    def apply(self, messages: Iterable[Message]) -> list[tuple[Message, BadItem]]:
        """Apply messages and replace `states`; returns the messages that are refused, with why."""
        offset, refused = self.states.offset, []
        withheld_before, retired_before = self.states.withheld, self.states.retired
        changed = False
        for message in messages:
            offset = message.offset + 1
            try:
                item_id, item = decode_item(message.key, message.value)
            except BadItem as error:
                refused.append((message, error))
                continue
            changed |= _put(self._retired, item_id, item is None)
            changed |= _put(self._withheld, item_id, item is None or not item.available)
            if self._keep_values:
                self._keep(item_id, item, message.value)
        self.states = ItemStates(
            offset,
            frozenset(self._withheld) if changed else withheld_before,
            frozenset(self._retired) if changed else retired_before,
        )
        return refused

    def _keep(self, item_id: str, item: Item | None, value: bytes | None) -> None:
        if item is None or value is None:
            self.values.pop(item_id, None)
        else:
            self.values[item_id] = value
        if item is not None and item.title:
            self.titles[item_id] = item.title
        else:
            self.titles.pop(item_id, None)


def known_item(table: ItemTable, item_id: str) -> Item | None:
    """What a table with values knows about an item; None if it is retired, or nothing is known."""
    value = table.values.get(item_id)
    return None if value is None else decode_item(item_id.encode(), value)[1]


def with_availability(table: ItemTable, item_id: str, available: bool) -> Item | None:
    """The item as it must be said to be, so that lists may hold it, or not; None: it is so already.

    Its other attributes stay. Those of a retired item are gone.
    """
    if (item_id in table.states.withheld) != available:
        return None
    item = known_item(table, item_id) or Item(item_id=item_id)
    return item.model_copy(update={"available": available})


def item_message(topic: str, item_id: str, item: Item | None) -> OutMessage:
    """The message that says this about an item; None retires it.

    Raises BadItem if readers would refuse it.
    """
    try:
        value = None if item is None else item.model_dump_json(exclude_unset=True).encode()
        message = OutMessage(topic, item_id.encode(), value)
    except (PydanticSerializationError, UnicodeEncodeError):  # half a surrogate pair
        raise BadItem("it holds text that is not valid Unicode") from None
    decode_item(message.key, message.value)
    return message


def _put(ids: set[str], item_id: str, belongs: bool) -> bool:
    """Add or remove an id; whether that changed the set."""
    if (item_id in ids) == belongs:
        return False
    if belongs:
        ids.add(item_id)
    else:
        ids.remove(item_id)
    return True
