"""What is related to each item, onto the topic of related items: key item_id, compacted.

1. Read the registry's pointer and, of its version, the lists and the item ids.
2. Read the topic to its end, once: what it says about each item.
3. Send what is missing there or says something else, and tombstones for items that are unknown now.

So nothing is sent twice needlessly, and who dies in 3 is completed by the next run. When the
registry names another version it goes on at 1; when the items topic names other items that no list
may hold, at 3 with the lists that hold them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import islice

import numpy as np
from pydantic import ValidationError

from nextclick.shared.errors import NextclickError
from nextclick.shared.items import ItemStates
from nextclick.shared.kafka import Publisher, ensure_topics, read_offsets, retained_offsets
from nextclick.shared.messages import Message, OutMessage
from nextclick.shared.model import Vocabulary
from nextclick.shared.model.related import LISTED, RelatedLists
from nextclick.shared.registry import Registry
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.settings import KafkaSettings
from nextclick.shared.schemas import RelatedItems

log = logging.getLogger(__name__)

_AT_ONCE = 1000
Digests = dict[str, bytes]
"""Item id → digest of what is said about it."""


class RelatedPublisher:
    """Keeps the topic as the served version and the items topic say. Used by one thread."""

    def __init__(
        self, kafka: KafkaSettings, registry: Registry, states: Callable[[], ItemStates]
    ) -> None:
        """states: what the items topic says now."""
        self._kafka = kafka
        self._topic = kafka.related_topic
        self._registry = registry
        self._states = states
        self._publisher = Publisher(kafka)
        self._version: str | None = None
        self._lists: RelatedLists | None = None
        self._vocabulary = Vocabulary([])
        self._on_topic: Digests | None = None
        """None: it must be read."""
        self._withheld: frozenset[str] | None = None
        """What the lists on the topic leave out; None: they are another version's."""

    def step(self) -> int:
        """Bring the topic up to date; returns the number of messages that were sent.

        Raises NextclickError if there is no version with related items, CheckpointError if it is
        broken, Unavailable, and ConfigurationError for a missing permission.
        """
        pointer, states = self._registry.pointer(), self._states()
        if pointer is None:
            raise NextclickError(f"the registry {self._registry.url} has no model yet")
        if pointer.version != self._version:
            self._load(pointer.version)
        assert self._lists is not None
        assert self._version is not None
        if states.withheld == self._withheld:
            return 0
        if self._on_topic is None:
            ensure_topics(self._kafka, [self._topic])
            held = retained_offsets(self._kafka, self._topic)
            self._on_topic = digests(read_offsets(self._kafka, self._topic, held))
            self._withheld = None  # what there is may be another version's
        rows = np.arange(1, len(self._vocabulary) + 1)
        if self._withheld is not None:
            changed = self._vocabulary.rows(list(states.withheld ^ self._withheld))
            rows = self._lists.holders(changed)
        said = messages(self._lists, self._vocabulary.item_ids, rows, self._version, states)
        gone = self._on_topic.keys() - self._vocabulary.item_ids if self._withheld is None else ()
        sent = self._send(said, gone)
        self._withheld = states.withheld
        if sent:
            log.info("%d messages sent to %s, for model %s", sent, self._topic, self._version)
        return sent

    def _load(self, version: str) -> None:
        lists = self._registry.related_lists(version)
        if lists is None:
            raise NextclickError(
                f"the model {version} has no related items: an earlier version of nextclick made "
                "it; the next retraining makes one that has them"
            )
        self._vocabulary = Vocabulary(self._registry.item_ids(version))
        self._lists, self._version, self._withheld = lists, version, None

    def _send(self, said: Iterable[RelatedItems], gone: Iterable[str]) -> int:
        """Send what the topic does not say yet, and tombstones; returns the number of messages."""
        on_topic = self._on_topic
        assert on_topic is not None
        self._on_topic = self._withheld = None  # if this fails, the topic is read again
        new = ((message, digest(message)) for message in said)
        differing = ((m, d) for m, d in new if on_topic.get(m.item_id) != d)
        sent = 0
        while part := list(islice(differing, _AT_ONCE)):
            self._deliver([_out(self._topic, message) for message, _ in part])
            on_topic.update((message.item_id, digest) for message, digest in part)
            sent += len(part)
        names = iter(sorted(gone))
        while ids := list(islice(names, _AT_ONCE)):
            self._deliver([OutMessage(self._topic, item_id.encode(), None) for item_id in ids])
            for item_id in ids:
                del on_topic[item_id]
            sent += len(ids)
        self._on_topic = on_topic
        return sent

    def _deliver(self, messages: list[OutMessage]) -> None:
        self._publisher.send(messages)
        self._publisher.wait_acknowledged()
        metrics.RELATED_MESSAGES.inc(len(messages))


def messages(
    lists: RelatedLists,
    item_ids: list[str],
    rows: Iterable[int],
    version: str,
    states: ItemStates,
) -> Iterator[RelatedItems]:
    """What is to be said about the items of some rows."""
    for row in rows:
        yield RelatedItems(
            item_id=item_ids[row - 1],
            similar=lists.similar.of(row, item_ids, LISTED, states.withheld),
            bought_together=lists.bought_together.of(row, item_ids, LISTED, states.withheld),
            bought_together_basis=lists.basis(row),
            model_version=version,
            items_offset=states.offset,
        )


def digests(held: Iterable[Message]) -> Digests:
    """What the messages of a topic say in the end; a value that says nothing has an own digest."""
    found: Digests = {}
    for message in held:
        item_id = (message.key or b"").decode(errors="replace")
        if message.value is None:
            found.pop(item_id, None)
            continue
        try:
            found[item_id] = digest(RelatedItems.model_validate_json(message.value))
        except ValidationError:
            found[item_id] = b""
    return found


def digest(message: RelatedItems) -> bytes:
    """Stands for all of a message but its items_offset, which changes without the lists."""
    content = message.model_dump_json(exclude={"items_offset"})
    return blake2b(content.encode(), digest_size=16).digest()


def _out(topic: str, message: RelatedItems) -> OutMessage:
    return OutMessage(topic, message.item_id.encode(), message.model_dump_json().encode())
