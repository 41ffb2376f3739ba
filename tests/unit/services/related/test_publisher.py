"""What is said about each item, and what a topic says already."""

from __future__ import annotations

from nextclick.services.related.publisher import digest, digests, messages
from nextclick.shared.items import ItemStates
from nextclick.shared.messages import Message
from nextclick.shared.schemas import RelatedItems
from tests.unit.builders import related_lists

IDS = [str(i) for i in range(1, 31)]


def said(states: ItemStates, version: str = "v1") -> list[RelatedItems]:
    return list(messages(related_lists(), IDS, range(1, 31), version, states))


def test_each_item_has_its_lists_without_what_is_withheld() -> None:
    of = said(ItemStates(offset=7, withheld=frozenset({"3", "unheard-of"})))
    assert [message.item_id for message in of] == IDS
    assert [item.item_id for item in of[0].bought_together] == ["2", "4", "5", "6"]
    assert [item.item_id for item in of[0].similar] == [str(i) for i in range(2, 23) if i != 3]
    assert [item.item_id for item in of[2].bought_together] == ["4", "5", "6", "7", "8"]
    assert {message.items_offset for message in of} == {7}
    assert [message.bought_together_basis for message in of[:2]] == ["purchases", "clicks"]


def test_a_digest_stands_for_all_but_the_offset() -> None:
    one, later = said(ItemStates(offset=1))[0], said(ItemStates(offset=2))[0]
    assert digest(one) == digest(later)
    other = said(ItemStates(), "v2")[0], said(ItemStates(withheld=frozenset({"2"})))[0]
    basis = one.model_copy(update={"bought_together_basis": "clicks"})
    assert len({digest(message) for message in (one, *other, basis)}) == 4


def test_a_topic_says_what_its_newest_messages_say() -> None:
    first, second = said(ItemStates())[:2]
    values = [
        ("1", first.model_dump_json()),
        ("2", first.model_dump_json()),
        ("2", second.model_dump_json()),
        ("3", "{}"),
        ("4", second.model_dump_json()),
        ("4", None),
        ("5", None),
    ]
    held = [
        Message("t", 0, offset, key.encode(), None if value is None else value.encode())
        for offset, (key, value) in enumerate(values)
    ]
    assert digests(held) == {"1": digest(first), "2": digest(second), "3": b""}
