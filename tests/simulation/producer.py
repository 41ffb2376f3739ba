"""confluent_kafka.Producer, as far as nextclick uses it, on a simulated Kafka.

Rules of the model, and where they come from:

- Messages are sent in the background, per partition in order, one request at a time; the same
  request is sent again while the connection breaks. Delivery reports are given inside `poll` and
  `flush` (librdkafka).
- Messages of a transaction wait until their partition is added to it. An error of the group makes
  the transaction one that must be aborted, and drops what is queued; a fenced producer has failed
  for good (librdkafka, rd_kafka_txn_set_abortable_error, rd_kafka_txn_set_fatal_error).
- `commit_transaction` waits for all messages and then sends EndTxn, again while the connection
  breaks. If it times out it may be called again, and nothing else (state COMMITTING).
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from tests.simulation.cluster import NOT_LEADER, Cluster
from tests.simulation.group import GroupMetadata
from tests.simulation.log import OK, Record
from tests.simulation.network import BROKEN, RETRY_SECONDS, Connection, Handler, TimedOut
from tests.simulation.scheduler import Process, Signal
from tests.simulation.transactions import CONCURRENT, FENCED, INVALID_STATE, Place

OnDelivery = Callable[[KafkaError | None, Any], None]

CONCURRENT_SECONDS = 0.02
"""How long to wait while a transaction's markers are written."""


class SentMessage:
    """What a delivery report is about."""

    def __init__(self, place: Place, record: Record) -> None:
        self._place = place
        self._record = record

    def key(self) -> bytes | None:
        return self._record.key

    def value(self) -> bytes | None:
        return self._record.value

    def topic(self) -> str:
        return self._place[0]

    def partition(self) -> int:
        return self._place[1]


class _Lane:
    """The messages of one partition on their way."""

    def __init__(self, place: Place, connection: Connection) -> None:
        self.place = place
        self.connection = connection
        self.queue: deque[tuple[Record, OnDelivery]] = deque()
        self.sending: list[tuple[Record, OnDelivery]] = []
        self.next_sequence = 0
        self.added = False
        """To the transaction."""


class Producer:
    """A client of one process."""

    def __init__(self, process: Process, cluster: Cluster, config: dict[str, Any]) -> None:
        self._process = process
        self._world = process.world
        self._cluster = cluster
        self._faults = cluster.server.faults
        self._name: str = config.get("transactional.id", "")
        self._timeout = config.get("transaction.timeout.ms", 60_000) / 1000
        self._id = -1 if self._name else cluster.new_producer()
        self._epoch = 0
        self._lanes: dict[Place, _Lane] = {}
        self._coordinator = Connection(process, cluster.server, "transactions")
        self._reports: deque[tuple[OnDelivery, KafkaError | None, SentMessage]] = deque()
        self._outstanding = 0
        self._news = Signal(process)
        self._state = "new"
        self._failure: KafkaError | None = None
        """Why the transaction must be aborted, or why the producer is of no use any more."""
        self._adding = False
        self._has_group = False

    # Messages

    def produce(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int = -1,
        headers: Sequence[tuple[str, bytes]] | None = None,
        on_delivery: OnDelivery | None = None,
    ) -> None:
        """Queue a message."""
        self._faults.at_point(self._process, "produce")
        assert on_delivery is not None
        if self._name:
            if self._failure is not None:
                code = KafkaError._FATAL if self._state == "failed" else KafkaError._STATE
                raise KafkaException(KafkaError(code, self._failure.str()))
            self._expect("in transaction", "produce")
        if partition < 0:
            partition = zlib.crc32(key or b"") % self._cluster.topics[topic]
        place = (topic, partition)
        lane = self._lanes.get(place)
        if lane is None:
            connection = Connection(self._process, self._cluster.server, "produce")
            lane = self._lanes[place] = _Lane(place, connection)
        producer = self._id if self._name else -1
        lane.queue.append((Record(key, value, headers or (), producer), on_delivery))
        self._outstanding += 1
        if not lane.sending and len(lane.queue) == 1:
            # Not at once: what follows without waiting shares the request.
            self._world.at(self._world.now, partial(self._send, lane), self._process)

    def poll(self, timeout: float = 0) -> int:
        """Give delivery reports."""
        self._faults.at_point(self._process, "producer.poll")
        if not self._reports and timeout > 0:
            self._news.wait(timeout)
        return self._give_reports()

    def flush(self, timeout: float = -1) -> int:
        """Wait for all messages; how many are left."""
        self._faults.at_point(self._process, "flush")
        deadline = self._world.now + timeout
        while True:
            self._give_reports()
            left = deadline - self._world.now
            if self._outstanding == 0 or (timeout >= 0 and left <= 0):
                return self._outstanding
            self._news.wait(left if timeout >= 0 else None)

    def _give_reports(self) -> int:
        given = 0
        while self._reports:
            on_delivery, error, message = self._reports.popleft()
            self._outstanding -= 1
            given += 1
            on_delivery(error, message)
        return given

    def _send(self, lane: _Lane) -> None:
        if lane.sending or not lane.queue:
            return
        if self._name and not lane.added:
            self._add_partitions()
            return
        count = len(lane.queue)
        if count > 1 and self._faults.choose(2):
            count = 1 + self._faults.choose(count)
        lane.sending = [lane.queue.popleft() for _ in range(count)]
        self._send_again(lane)

    def _send_again(self, lane: _Lane) -> None:
        records = [record for record, _ in lane.sending]
        request = partial(
            self._cluster.append,
            self._id,
            self._epoch,
            lane.next_sequence,
            lane.place,
            records,
            bool(self._name),
        )
        lane.connection.send(
            f"produce to {lane.place[0]}/{lane.place[1]}",
            lambda reply: reply(request()),
            partial(self._sent, lane),
        )

    def _sent(self, lane: _Lane, answer: Any) -> None:
        if not lane.sending:
            return  # they were thrown away with their transaction
        if answer is BROKEN or answer == NOT_LEADER:
            if answer is BROKEN:
                lane.connection.reset()
            self._world.after(RETRY_SECONDS, partial(self._send_again_if_left, lane), self._process)
            return
        sent, lane.sending = lane.sending, []
        error = None
        if answer == OK:
            lane.next_sequence += len(sent)
        else:
            error = KafkaError(answer, "refused")
        self._report(lane, sent, error)
        if error is not None:
            self._must_abort(error)
        self._send(lane)

    def _send_again_if_left(self, lane: _Lane) -> None:
        if lane.sending:
            self._send_again(lane)

    def _report(
        self,
        lane: _Lane,
        messages: Sequence[tuple[Record, OnDelivery]],
        error: KafkaError | None,
    ) -> None:
        for record, on_delivery in messages:
            self._reports.append((on_delivery, error, SentMessage(lane.place, record)))
        self._news.give()

    # Transactions

    def init_transactions(self, timeout: float) -> None:
        """Take the transactional id over."""
        self._faults.at_point(self._process, "init_transactions")
        deadline = self._world.now + timeout

        def init() -> tuple[int, int, int]:
            return self._cluster.transactions.init(self._name, self._timeout)

        error, self._id, self._epoch = self._until_not_concurrent(
            "init_transactions", init, deadline, lambda answer: answer[0]
        )
        assert error == OK
        self._state = "ready"

    def begin_transaction(self) -> None:
        """Begin; Kafka hears of it with the first partition."""
        self._faults.at_point(self._process, "begin_transaction")
        self._raise_failure()
        self._expect("ready", "begin_transaction")
        self._state = "in transaction"
        self._has_group = False
        for lane in self._lanes.values():
            lane.added = False

    def send_offsets_to_transaction(
        self, places: Sequence[TopicPartition], group: GroupMetadata, timeout: float
    ) -> None:
        """Put offsets into the transaction."""
        self._faults.at_point(self._process, "send_offsets")
        self._raise_failure()
        self._expect("in transaction", "send_offsets_to_transaction")
        deadline = self._world.now + timeout
        transactions = self._cluster.transactions
        what = "send_offsets_to_transaction"
        self._has_group = True
        error = self._until_not_concurrent(
            what, lambda: transactions.add_group(self._name, self._epoch), deadline
        )
        offsets = {place.partition: place.offset for place in places}
        if error == OK:
            error = self._until_not_concurrent(
                what,
                lambda: transactions.commit_offsets(self._name, self._epoch, group, offsets),
                deadline,
            )
        if error != OK:
            self._must_abort(KafkaError(error, KafkaError(error).str(), txn_requires_abort=True))
            self._raise_failure()

    def commit_transaction(self, timeout: float) -> None:
        """Wait for the messages, and commit."""
        self._faults.at_point(self._process, "commit_transaction")
        deadline = self._world.now + timeout
        self._raise_failure()
        self._expect_one_of(("in transaction", "committing"), "commit_transaction")
        if self._state == "in transaction":
            if self.flush(timeout):
                raise _timed_out("commit_transaction")
            self._raise_failure()
        self._state = "committing"
        self._end(True, deadline)

    def abort_transaction(self, timeout: float) -> None:
        """Abort; what is queued is thrown away."""
        self._faults.at_point(self._process, "abort_transaction")
        deadline = self._world.now + timeout
        if self._state == "failed":
            self._raise_failure()
        self._purge()
        # What Kafka has been sent is waited for: its sequence numbers count.
        while any(lane.sending for lane in self._lanes.values()):
            left = deadline - self._world.now
            if left <= 0:
                raise _timed_out("abort_transaction")
            self._news.wait(left)
        self._end(False, deadline)

    def _end(self, committed: bool, deadline: float) -> None:
        what = "commit_transaction" if committed else "abort_transaction"
        if self._has_group or any(lane.added for lane in self._lanes.values()):
            transactions = self._cluster.transactions
            error = self._until_not_concurrent(
                what, lambda: transactions.end(self._name, self._epoch, committed), deadline
            )
            if error != OK:
                self._fail(error)
                self._raise_failure()
        self._state, self._failure = "ready", None

    def _until_not_concurrent(
        self,
        what: str,
        call: Callable[[], Any],
        deadline: float,
        error_of: Callable[[Any], int] = lambda answer: int(answer),
    ) -> Any:
        handler: Handler = lambda reply: reply(call())  # noqa: E731
        while True:
            try:
                answer = self._coordinator.request(what, handler, deadline - self._world.now)
            except TimedOut:
                raise _timed_out(what) from None
            if error_of(answer) != CONCURRENT:
                return answer
            if self._world.now + CONCURRENT_SECONDS >= deadline:
                raise _timed_out(what)
            self._process.sleep(CONCURRENT_SECONDS)

    def _add_partitions(self) -> None:
        if self._adding or self._failure is not None or self._state != "in transaction":
            return
        self._adding = True
        lanes = [lane for lane in self._lanes.values() if lane.queue and not lane.added]
        places = [lane.place for lane in lanes]
        transactions, epoch = self._cluster.transactions, self._epoch
        self._coordinator.send(
            "add partitions",
            lambda reply: reply(transactions.add_partitions(self._name, epoch, places)),
            partial(self._added, lanes),
        )

    def _added(self, lanes: Sequence[_Lane], answer: Any) -> None:
        self._adding = False
        if self._failure is not None or self._state not in ("in transaction", "committing"):
            return
        if answer is BROKEN or answer == CONCURRENT:
            if answer is BROKEN:
                self._coordinator.reset()
            wait = RETRY_SECONDS if answer is BROKEN else CONCURRENT_SECONDS
            self._world.after(wait, self._add_partitions, self._process)
        elif answer != OK:
            self._fail(answer)
        else:
            for lane in lanes:
                lane.added = True
            for lane in self._lanes.values():
                self._send(lane)

    def _must_abort(self, error: KafkaError) -> None:
        if error.code() in (FENCED, INVALID_STATE):
            self._fail(error.code())
        elif self._failure is None:
            self._failure = KafkaError(error.code(), error.str(), txn_requires_abort=True)
            self._purge()

    def _fail(self, code: int) -> None:
        self._state = "failed"
        self._failure = KafkaError(KafkaError._FATAL, f"Fatal error: {KafkaError(code).str()}")
        self._purge()

    def _purge(self) -> None:
        purged = KafkaError(KafkaError._PURGE_QUEUE, "purged")
        for lane in self._lanes.values():
            queued = list(lane.queue)
            lane.queue.clear()
            self._report(lane, queued, purged)
            if self._state == "failed" and lane.sending:
                sent, lane.sending = lane.sending, []
                self._report(lane, sent, purged)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise KafkaException(self._failure)

    def _expect(self, state: str, what: str) -> None:
        self._expect_one_of((state,), what)

    def _expect_one_of(self, states: Sequence[str], what: str) -> None:
        if self._state not in states:
            raise KafkaException(
                KafkaError(KafkaError._STATE, f"{what}: the producer is {self._state}")
            )


def _timed_out(what: str) -> KafkaException:
    return KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{what} timed out", retriable=True))
