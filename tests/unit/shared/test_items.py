from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextclick.shared.errors import BadItem
from nextclick.shared.item_features import ItemContent
from nextclick.shared.items import (
    UNKNOWN,
    Attributes,
    ItemStates,
    ItemTable,
    contents_of,
    item_message,
    known_item,
    with_availability,
)
from nextclick.shared.messages import Message
from nextclick.shared.schemas import MAX_ITEM_BYTES, Item, decode_item


def message(offset: int, key: bytes | None, value: bytes | dict[str, Any] | None) -> Message:
    encoded = json.dumps(value).encode() if isinstance(value, dict) else value
    return Message("items", 0, offset, key, encoded)


def test_an_item_keeps_what_else_is_said_about_it() -> None:
    item_id, item = decode_item(
        b"17", b'{"item_id": 17, "title": "Bowl", "price": 12, "color": "blue", "sizes": [1, 2]}'
    )
    assert item_id == "17"
    assert item == Item(item_id="17", title="Bowl", price=12.0, color="blue", sizes=[1, 2])
    assert item is not None
    assert item.available
    back = item_message("items", item_id, item)
    assert decode_item(back.key, back.value) == (item_id, item)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        (None, {"item_id": "1"}, "key of 0 characters"),
        (b"\xff", {"item_id": "1"}, "not UTF-8"),
        (b"k" * 129, None, "key of 129 characters"),
        (b"1", {"item_id": "2"}, "the key is not the item_id"),
        (b"1", {"title": "a"}, "item_id: Field required"),
        (b"1", {"item_id": "1", "price": -1}, "price"),
        (b"1", {"item_id": "1", "price": "12"}, "price"),
        (b"1", {"item_id": "1", "available": "no"}, "available"),
        (b"1", {"item_id": "1", "categories": "dogs"}, "categories"),
        (b"1", {"item_id": "1", "tags": ["t"] * 101}, "tags"),
        (b"1", {"item_id": "1", "title": "t" * 501}, "title"),
        (b"1", {"item_id": "1", "text": "t" * MAX_ITEM_BYTES}, "at most 16384"),
        (b"1", b"no json", "JSON"),
        (b"1", b"", "JSON"),
        (b"1", b"[]", "message"),
    ],
)
def test_a_message_of_another_shape_is_refused_and_changes_nothing(
    key: bytes | None, value: Any, why: str
) -> None:
    table = ItemTable(keep_values=True)
    table.apply([message(0, b"1", {"item_id": "1", "available": False})])
    refused = table.apply([message(1, key, value)])
    assert why in str(refused[0][1])
    assert table.states == ItemStates(2, frozenset({"1"}), frozenset())
    assert known_item(table, "1") == Item(item_id="1", available=False)


def test_what_could_not_be_read_is_not_written() -> None:
    for item in (Item(item_id="1", note="\ud800"), Item(item_id="1", x="t" * MAX_ITEM_BYTES)):
        with pytest.raises(BadItem):
            item_message("items", "1", item)
    for bad_id in ("", "k" * 129, "\ud800"):
        with pytest.raises(BadItem):
            item_message("items", bad_id, None)


def test_the_newest_message_counts_as_a_whole() -> None:
    table = ItemTable(keep_values=True)
    table.apply([message(0, b"1", {"item_id": "1", "title": "Bowl", "available": False})])
    assert table.titles == {"1": "Bowl"}
    table.apply([message(1, b"1", {"item_id": "1", "price": 3.5})])
    assert (table.states.withheld, table.titles) == (frozenset(), {})
    table.apply([message(2, b"1", None)])
    assert table.states == ItemStates(3, frozenset({"1"}), frozenset({"1"}))
    assert table.values == {}
    assert known_item(table, "1") is None
    table.apply([message(3, b"1", {"item_id": "1"})])
    assert table.states == ItemStates(4, frozenset(), frozenset())


def test_what_does_not_change_stays_the_same_object() -> None:
    table = ItemTable()
    table.apply([message(0, b"1", None), message(1, b"2", None)])
    before = table.states
    table.apply([message(2, b"3", {"item_id": "3", "price": 1}), message(3, b"1", None)])
    assert table.states.offset == 4
    assert table.states.withheld is before.withheld
    assert table.values == {}


def test_availability_changes_and_all_else_stays() -> None:
    table = ItemTable(keep_values=True)
    table.apply([message(0, b"1", {"item_id": "1", "title": "Bowl", "color": "blue"})])
    assert with_availability(table, "1", True) is None
    off = with_availability(table, "1", False)
    assert off == Item(item_id="1", title="Bowl", color="blue", available=False)
    again = item_message("items", "1", off)
    table.apply([message(1, again.key, again.value)])
    assert with_availability(table, "1", False) is None
    assert with_availability(table, "1", True) == Item(
        item_id="1", title="Bowl", color="blue", available=True
    )
    table.apply([message(2, b"1", None)])
    assert with_availability(table, "1", False) is None
    assert with_availability(table, "1", True) == Item(item_id="1", available=True)
    assert with_availability(table, "never seen", False) == Item(
        item_id="never seen", available=False
    )


said = st.tuples(
    st.sampled_from([b"1", b"2", b"3"]), st.sampled_from([None, True, False, "broken"])
)


@given(st.lists(said, max_size=12), st.data())
def test_any_offset_gives_the_state_of_then_however_the_messages_came(
    says: list[tuple[bytes, bool | str | None]], data: st.DataObject
) -> None:
    """What makes a list computable again: its items_offset and the topic."""
    messages = [
        message(i, key, None if what is None else {"item_id": key.decode(), "available": what})
        for i, (key, what) in enumerate(says)
    ]
    table, seen = ItemTable(), [ItemStates()]
    for one in messages:
        table.apply([one])
        seen.append(table.states)
    offset = data.draw(st.integers(0, len(messages)))
    again = ItemTable(keep_values=True)
    again.apply(m for m in messages if m.offset < offset)
    assert again.states == seen[offset]
    newest = {m.key: m for m in messages}  # what compaction leaves of it
    compacted = ItemTable()
    compacted.apply(sorted(newest.values(), key=lambda m: m.offset))
    if not any(what == "broken" for _, what in says):
        assert compacted.states == table.states


def test_what_constraints_ask_about_follows_the_newest_message() -> None:
    table = ItemTable(keep_attributes=True)
    bowl = {"item_id": "1", "categories": ["dogs", "dogs", "bowls"], "tags": ["steel"], "price": 3}
    table.apply(
        [message(0, b"1", bowl), message(1, b"2", {"item_id": "2", "categories": ["dogs"]})]
    )
    first = table.states.attributes
    assert first.get("1") == Attributes(("dogs", "bowls"), ("steel",), 3.0)
    assert first.get("2") == Attributes(("dogs",))
    assert first.get("3") == UNKNOWN
    assert table.categories == {"dogs": 2, "bowls": 1}
    table.apply([message(2, b"1", {"item_id": "1", "available": False}), message(3, b"2", None)])
    after = table.states.attributes
    assert (after.get("1"), after.get("2"), len(after)) == (UNKNOWN, UNKNOWN, 0)
    assert table.categories == {}
    assert first.get("2") == Attributes(("dogs",)), "a snapshot stays as it was"
    assert {*after.changed_since(first)} == {"1", "2"}


def test_a_snapshot_of_attributes_stays_while_they_do() -> None:
    table = ItemTable(keep_attributes=True)
    table.apply([message(0, b"1", {"item_id": "1", "price": 3})])
    before = table.states.attributes
    again = {"item_id": "1", "price": 3, "title": "Bowl", "available": False}
    table.apply([message(1, b"1", again), message(2, b"2", {"item_id": "2"})])
    assert table.states.attributes is before
    assert table.states.withheld == {"1"}
    nobody = ItemTable()
    nobody.apply([message(0, b"1", {"item_id": "1", "price": 3})])
    assert len(nobody.states.attributes) == 0


def test_what_models_learn_about_items_is_what_the_topic_says_last() -> None:
    table = ItemTable(keep_values=True)
    bowl = {"item_id": "1", "title": "Bowl", "categories": ["dogs"], "tags": ["a"], "price": 3}
    table.apply(
        [
            message(0, b"1", bowl),
            message(1, b"2", {"item_id": "2", "title": "Leash"}),
            message(2, b"3", {"item_id": "3"}),
            message(3, b"2", None),
            message(4, b"1", bowl | {"available": False}),
        ]
    )
    assert contents_of(table) == {
        "1": ItemContent(("dogs",), ("a",), 3.0, "Bowl", available=False),
        "3": ItemContent(),
    }
