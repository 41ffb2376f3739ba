"""Exactly once: a batch's answers and its offsets become visible together, or not at all.

KIP-98 (transactions) and KIP-447 (one producer for all partitions of a consumer). Whoever begins
under the same transactional id ends what its predecessor left open and fences it off: a worker
that was thought dead and wakes up cannot commit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Message as RawMessage

from shared.errors import CommitRefused, Fenced
from shared.kafka.client import MISCONFIGURED, REQUEST_SECONDS, unavailable
from shared.kafka.consumer import ClickConsumer, offsets_after
from shared.kafka.publisher import Publisher
from shared.messages import Message, OutMessage
from shared.settings import KafkaSettings

log = logging.getLogger(__name__)

_STUMBLED = KafkaError(KafkaError._FATAL)
"""confluent-kafka stumbles over its own exception when a delivery report brings a fatal error, and
raises SystemError. The call that ends the transaction says properly what it was."""

TRANSACTION_TIMEOUT_MS = 30_000
"""So long a worker that died for good holds back the readers of committed answers."""


class TransactionalPublisher(Publisher):
    """Produces in transactions that also commit a consumer's offsets."""

    def __init__(
        self, settings: KafkaSettings, transactional_id: str, consumer: ClickConsumer
    ) -> None:
        """Prepare the client; `transactional_id` names one worker and its heirs."""
        self._id = transactional_id
        self._consumer = consumer
        self._group: Any = None
        """What the group was when the transaction began."""
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
        except SystemError:
            self._note(_STUMBLED)

    def wait_acknowledged(self, timeout: float = REQUEST_SECONDS) -> None:
        """See Publisher.wait_acknowledged; what breaks the transaction is for `commit` to say."""
        try:
            super().wait_acknowledged(timeout)
        except SystemError:
            self._note(_STUMBLED)

    def commit(self, messages: Sequence[Message]) -> None:
        """Commit what was sent together with the offsets after `messages`, and wait for it.

        Raises CommitRefused if it had to be aborted: none of it is visible then, and the consumer
        starts from the last committed offset. Raises Unavailable if Kafka does not answer; calling
        again goes on. Raises Fenced if the transactional id is somebody else's now.
        """
        if self._connected:
            self._begin()
            self._commit_or_abort(messages)
        if not self._connected:  # the client was given up; beginning anew aborts what it left open
            self.connect()
            self._broken = KafkaError(KafkaError._TIMED_OUT)
        broken, self._broken = self._broken, None
        self._open = self._offsets_sent = False
        if broken is not None:
            raise CommitRefused(f"transaction aborted: {broken.str()}")

    def _commit_or_abort(self, messages: Sequence[Message]) -> None:
        if self._broken is None:
            try:
                if not self._offsets_sent:
                    self._send_offsets(messages)
                if self._connected:
                    self._transact(self._producer.commit_transaction, REQUEST_SECONDS)
                return
            except _MustAbort as must:
                self._broken = must.error
        self._transact(self._producer.abort_transaction, REQUEST_SECONDS)
        self._producer.flush(REQUEST_SECONDS)  # hear now of what was thrown away with it

    def _send_offsets(self, messages: Sequence[Message]) -> None:
        """Add the offsets to the transaction; give the client up if it does not come back.

        While the group's coordinator cannot be reached, librdkafka does not heed this call's
        timeout, and may even forget to connect again (its issues 5456 and 5511). So it is made in
        a thread of its own, which then stays behind with the client.
        """
        offsets = offsets_after(self._consumer.topic, messages)
        call = _Call(
            self._producer.send_offsets_to_transaction, offsets, self._group, REQUEST_SECONDS
        )
        if call.returned_within(REQUEST_SECONDS + 1):
            self._transact(call.result)
            self._offsets_sent = True
        else:
            log.warning("the Kafka client does not come back; going on with a new one")
            self._producer = self._new_client()
            self._connected = False

    def _begin(self) -> None:
        if not self._open:
            self._transact(self._producer.begin_transaction)
            # Not when it ends: the group may have gone on by then, and must refuse it (KIP-447).
            self._group = self._consumer.group_metadata()
            self._open = True

    def _transact(self, action: Callable[..., object], *arguments: object) -> None:
        try:
            action(*arguments)
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


class _Call:
    """A call in a thread of its own."""

    def __init__(self, action: Callable[..., object], *arguments: object) -> None:
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(action, arguments), daemon=True)
        self._thread.start()

    def _run(self, action: Callable[..., object], arguments: tuple[object, ...]) -> None:
        try:
            action(*arguments)
        except Exception as error:  # for the thread that wants the result
            self._error = error

    def returned_within(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> None:
        if self._error is not None:
            raise self._error


class _MustAbort(Exception):
    def __init__(self, error: KafkaError) -> None:
        super().__init__(error)
        self.error = error
