"""Partitions that a group has assigned to nobody, and would leave so.

In a cooperative rebalance a partition that moves is given up in one round and assigned in the next,
which the member that gave it up begins (KIP-429). If that member is static, and another process
takes its name between the two, Kafka gives the new one what the old one kept, without a round
(KIP-345). Then nobody begins the next round, and nobody owns the partition until a member joins or
leaves. The same with every assignment strategy if partitions are added while the only member that
would notice is away, and it is back under its name. Seen on Apache Kafka 4.1.

Both begin with a static member that joins without a round, so it is enough that each static member
looks at the group after it has joined, until it has seen that all partitions are assigned. If it
dies before, the next of its name looks, or its session ends, and with that the group rebalances.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from nextclick.shared.errors import NextclickError
from nextclick.shared.kafka.background import BackgroundCall
from nextclick.shared.kafka.client import REQUEST_SECONDS, MakeClient
from nextclick.shared.kafka.group_description import DescribeGroup
from nextclick.shared.kafka.login import login_options
from nextclick.shared.runtime.settings import KafkaSettings

log = logging.getLogger(__name__)

LOOK_SECONDS = 3.0
"""Between two looks at the group. What is unassigned in two of them is made to be assigned."""

STEP_SECONDS = 0.1


class UnassignedPartitions:
    """Looks whether a group leaves partitions unassigned, and makes it rebalance.

    For that a member without a name joins the group for a moment, and leaves it. (To join again
    itself would not do: to Kafka nothing has changed when a static member does.)
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        config: dict[str, Any],
        admin: AdminClient,
        clock: Callable[[], float],
        make_client: MakeClient,
        background: Callable[[str, Callable[[], object]], BackgroundCall],
        describe_group: DescribeGroup,
    ) -> None:
        """Prepare; `config` is that of a static member."""
        self._settings = settings
        self._topic = topic
        self._group_id = config["group.id"]
        self._config = {k: v for k, v in config.items() if k != "group.instance.id"}
        self._admin = admin
        self._clock = clock
        self._make_client = make_client
        self._background = background
        self._describe_group = describe_group
        self._joins = 0
        self._wanted = False
        """All partitions have not been seen assigned yet since this member has joined."""
        self._look_due = 0.0
        self._call: BackgroundCall | None = None
        self._seen: set[int] = set()
        """What nobody owned when last looked at."""
        self._joining = False
        self._closed = False

    def joined(self) -> None:
        """This member has just joined the group: look, from LOOK_SECONDS from now on."""
        self._joins += 1
        self._wanted = True
        self._look_due = self._clock() + LOOK_SECONDS

    def look(self) -> None:
        """Begin a look if one is due, without waiting for it."""
        if not self._wanted or self._clock() < self._look_due:
            return
        if self._call is not None and not self._call.ended:
            return
        self._look_due = self._clock() + LOOK_SECONDS
        joins = self._joins
        self._call = self._background("look at the group", lambda: self._look(joins))

    def _look(self, joins: int) -> None:
        before, self._seen = self._seen, set()
        try:
            seen = self._unassigned()
            if seen is None:
                return
            if lasting := before & seen:
                log.warning("partitions %s are nobody's: the group rebalances", sorted(lasting))
                self._rebalance()
            elif seen:
                self._seen = seen
            elif joins == self._joins:  # else it was before we have joined again
                self._wanted = False
        except (KafkaException, NextclickError) as error:  # the worker itself tells of outages
            log.debug("no look at the group %s: %s", self._group_id, error)

    def _unassigned(self) -> set[int] | None:
        """The partitions that nobody owns; None while the group rebalances."""
        group = self._describe_group(self._settings, self._group_id, self._topic)
        if not group.is_stable:
            return None
        topics = self._admin.describe_topics(
            TopicCollection([self._topic]), request_timeout=REQUEST_SECONDS
        )
        partitions = {partition.id for partition in topics[self._topic].result().partitions}
        return partitions.difference(*(member.partitions for member in group.members))

    def _rebalance(self) -> None:
        """Join and leave. What it is assigned meanwhile it does not read."""
        joined = False

        def on_assign(_: Consumer, __: object) -> None:
            nonlocal joined
            joined = True

        deadline = self._clock() + REQUEST_SECONDS
        self._joining = True
        client = self._make_client(Consumer, self._config | login_options(self._settings))
        try:
            client.subscribe([self._topic], on_assign=on_assign)
            while not (joined or self._closed or self._clock() > deadline):
                client.poll(STEP_SECONDS)
        finally:
            client.close()
            self._joining = False

    def close(self) -> None:
        """See to it that nothing of this is left in the group.

        Raises Unavailable if Kafka does not answer.
        """
        self._closed = True
        if self._call is not None and self._joining:
            self._call.outcome()
