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

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pydantic_core import PydanticSerializationError

from nextclick.shared.errors import BadItem
from nextclick.shared.item_features import ItemContent
from nextclick.shared.messages import Message, OutMessage
from nextclick.shared.schemas import Item, decode_item

_BUCKETS = 1024


@dataclass(frozen=True, slots=True)
class Attributes:
    """What constraints ask about an item (shared/profiles.py)."""

    categories: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    price: float | None = None
    """None: not known."""


UNKNOWN = Attributes()
"""Those of an item of which nothing is known."""


class ItemAttributes:
    """An immutable snapshot of the attributes of many items.

    A change copies one of 1,024 buckets, and shares the others. So two snapshots are compared in
    little more time than their difference takes, and readers need no lock.
    """

    def __init__(self) -> None:
        """Nothing is known of any item."""
        self._buckets: list[dict[str, Attributes]] = [{}] * _BUCKETS

    def get(self, item_id: str) -> Attributes:
        """Those of an item; UNKNOWN if nothing is known."""
        return self._buckets[hash(item_id) % _BUCKETS].get(item_id, UNKNOWN)

    def changed(self, changes: Mapping[str, Attributes]) -> ItemAttributes:
        """A snapshot with changes. Returns this one if there are none; UNKNOWN removes."""
        after = ItemAttributes()
        buckets = after._buckets = self._buckets.copy()
        for item_id, attributes in changes.items():
            number = hash(item_id) % _BUCKETS
            if buckets[number].get(item_id, UNKNOWN) == attributes:
                continue
            if buckets[number] is self._buckets[number]:
                buckets[number] = self._buckets[number].copy()
            if attributes == UNKNOWN:
                del buckets[number][item_id]
            else:
                buckets[number][item_id] = attributes
        return self if buckets == self._buckets else after

    def changed_since(self, before: ItemAttributes) -> Iterator[str]:
        """The items whose attributes may not be those of another snapshot."""
        for new, old in zip(self._buckets, before._buckets, strict=True):
            if new is not old:
                for item_id in new.keys() | old.keys():
                    if new.get(item_id) is not old.get(item_id):
                        yield item_id

    def __len__(self) -> int:
        """Items of which something is known."""
        return sum(map(len, self._buckets))


NOTHING_KNOWN = ItemAttributes()


@dataclass(frozen=True, slots=True)
class ItemStates:
    """An immutable snapshot of what the topic says."""

    offset: int = 0
    """All messages before this one are applied."""
    withheld: frozenset[str] = frozenset()
    """Items that no list may hold. The same object as long as nothing changes."""
    retired: frozenset[str] = frozenset()
    """Those of them that the next model does not learn either."""
    attributes: ItemAttributes = field(default=NOTHING_KNOWN, repr=False)
    """What constraints ask about items, if it is kept. The same object as long as it is so."""


class ItemTable:
    """Applies the messages of the topic, in their order."""

    def __init__(self, *, keep_values: bool = False, keep_attributes: bool = False) -> None:
        """keep_values: keep whole messages, too, for those who show them.

        keep_attributes: keep what constraints ask about.
        """
        self.states = ItemStates()
        self.values: dict[str, bytes] = {}
        """Item id → the value of its newest valid message."""
        self.titles: dict[str, str] = {}
        """Item id → its title; only items that have one."""
        self.categories: Counter[str] = Counter()
        """Category → how many items are in it, if attributes are kept; only those that have one."""
        self._keep_values = keep_values
        self._keep_attributes = keep_attributes
        self._withheld: set[str] = set()
        self._retired: set[str] = set()

    def apply(self, messages: Iterable[Message]) -> list[tuple[Message, BadItem]]:
        """Apply messages and replace `states`; returns the messages that are refused, with why."""
        offset, refused = self.states.offset, []
        withheld_before, retired_before = self.states.withheld, self.states.retired
        changed = False
        attributes: dict[str, Attributes] = {}
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
            if self._keep_attributes:
                attributes[item_id] = attributes_of(item)
        self.states = ItemStates(
            offset,
            frozenset(self._withheld) if changed else withheld_before,
            frozenset(self._retired) if changed else retired_before,
            self._changed_attributes(attributes),
        )
        return refused

    def _changed_attributes(self, changes: Mapping[str, Attributes]) -> ItemAttributes:
        before = self.states.attributes
        after = before.changed(changes) if changes else before
        if after is not before:
            categories = self.categories.copy()
            for item_id, attributes in changes.items():
                categories.subtract(before.get(item_id).categories)
                categories.update(attributes.categories)
            self.categories = +categories
        return after

    def _keep(self, item_id: str, item: Item | None, value: bytes | None) -> None:
        if item is None or value is None:
            self.values.pop(item_id, None)
        else:
            self.values[item_id] = value
        if item is not None and item.title:
            self.titles[item_id] = item.title
        else:
            self.titles.pop(item_id, None)


def attributes_of(item: Item | None) -> Attributes:
    """What constraints ask about an item; None: it is retired."""
    if item is None:
        return UNKNOWN
    # Many items share their names, so these are kept once.
    return Attributes(
        tuple(map(sys.intern, dict.fromkeys(item.categories))),
        tuple(map(sys.intern, dict.fromkeys(item.tags))),
        item.price,
    )


def content_of(item: Item) -> ItemContent:
    """What a model learns about an item beside its clicks."""
    same = attributes_of(item)
    return ItemContent(same.categories, same.tags, item.price, item.title or "", item.available)


def contents_of(table: ItemTable) -> dict[str, ItemContent]:
    """What models learn about the items of a table with values, the newest items last."""
    known = ((item_id, known_item(table, item_id)) for item_id in table.values)
    return {item_id: content_of(item) for item_id, item in known if item is not None}


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
