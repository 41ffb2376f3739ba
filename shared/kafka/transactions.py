"""Exactly once: a batch's answers and its offsets become visible together, or not at all.

KIP-98 (transactions) and KIP-447 (one producer for all partitions of a consumer). Whoever begins
under the same transactional id ends what its predecessor left open and fences it off: a worker
that was thought dead and wakes up cannot commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Message as RawMessage

from shared.errors import CommitRefused, Fenced
from shared.kafka.client import MISCONFIGURED, REQUEST_SECONDS, unavailable
from shared.kafka.consumer import ClickConsumer, offsets_after
from shared.kafka.publisher import Publisher
from shared.messages import Message, OutMessage
from shared.settings import KafkaSettings

TRANSACTION_TIMEOUT_MS = 30_000
"""So long a worker that died for good holds back the readers of committed answers."""


class TransactionalPublisher(Publisher):
    """Produces in transactions that also commit a consumer's offsets."""

    def __init__(self, settings: KafkaSettings, transactional_id: str) -> None:
        """Prepare the client; `transactional_id` names one worker and its heirs."""
        self._id = transactional_id
        self._open = False
        self._broken: KafkaError | None = None
        """Why the open transaction must be aborted."""
        self._offsets_sent = False
        super().__init__(settings)

    def _specific(self) -> dict[str, object]:
        return {"transactional.id": self._id, "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS}

    def connect(self) -> None:
        """Fence off whoever had the transactional id before, and end what it left open.

        Raises Unavailable if Kafka does not answer.
        """
        if not self._connected:
            self._transact(self._producer.init_transactions, REQUEST_SECONDS)
            self._connected = True

    def send(self, messages: Iterable[OutMessage]) -> None:
        """Hand messages to the client, in a transaction that begins with the first call.

        Raises Fenced if the transactional id is somebody else's now.
        """
        self._begin()
        try:
            super().send(messages)
        except KafkaException as error:  # the transaction is broken already: commit ends it
            self._note(error.args[0])

    def commit_with(self, consumer: ClickConsumer, messages: Sequence[Message]) -> None:
        """Commit what was sent together with the offsets after `messages`, and wait for it.

        Raises CommitRefused if it had to be aborted: none of it is visible then, and the consumer
        starts from the last committed offset. Raises Unavailable if Kafka does not answer; calling
        again goes on. Raises Fenced if the transactional id is somebody else's now.
        """
        self._begin()
        if self._broken is None:
            try:
                if not self._offsets_sent:
                    self._transact(
                        self._producer.send_offsets_to_transaction,
                        offsets_after(consumer.topic, messages),
                        consumer.group_metadata(),
                        REQUEST_SECONDS,
                    )
                    self._offsets_sent = True
                self._transact(self._producer.commit_transaction, REQUEST_SECONDS)
            except _MustAbort as must:
                self._broken = must.error
        if self._broken is not None:
            self._transact(self._producer.abort_transaction, REQUEST_SECONDS)
            self._producer.flush(REQUEST_SECONDS)  # hear now of what was thrown away with it
        broken, self._broken = self._broken, None
        self._open = self._offsets_sent = False
        if broken is not None:
            raise CommitRefused(f"transaction aborted: {broken.str()}")

    def _begin(self) -> None:
        if not self._open:
            self._transact(self._producer.begin_transaction)
            self._open = True

    def _transact(self, action: object, *arguments: object) -> None:
        try:
            action(*arguments)  # type: ignore[operator]
        except KafkaException as raised:
            error = raised.args[0]
            if error.fatal():
                raise Fenced(
                    f"the transactional id {self._id} is somebody else's now ({error.str()}): two "
                    "workers with one NEXTCLICK_WORKER__INSTANCE_ID, or one that was thought dead"
                ) from None
            if error.txn_requires_abort():
                raise _MustAbort(error) from None
            raise unavailable(self._settings, raised) from None

    def _delivered(self, error: KafkaError | None, raw: RawMessage) -> None:
        if error is not None and error.code() in MISCONFIGURED:
            super()._delivered(error, raw)  # for good
        elif error is not None:
            self._note(error)  # the next attempt may go better

    def _note(self, error: KafkaError) -> None:
        if self._broken is None:
            self._broken = error


class _MustAbort(Exception):
    def __init__(self, error: KafkaError) -> None:
        super().__init__(error)
        self.error = error
