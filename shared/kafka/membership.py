"""The client of a member of a consumer group, and what follows when the group shuts it out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException

from nextclick.shared.errors import Fenced, Unavailable
from nextclick.shared.kafka.background import BackgroundCall
from nextclick.shared.kafka.client import MakeClient, client_config, failed, login_error
from nextclick.shared.kafka.group_description import DescribeGroup
from nextclick.shared.kafka.login import Login, login_options
from nextclick.shared.runtime.rate_limit import RateLimit
from nextclick.shared.runtime.settings import KafkaSettings

log = logging.getLogger(__name__)

SESSION_TIMEOUT_MS = 10_000
"""Without a heartbeat for so long a member counts as dead and others take its partitions."""

HEARTBEAT_INTERVAL_MS = 500
"""Members hear of a rebalance by their heartbeats: with the default of 3 s partitions are without
an owner for up to 3 s each time that a member joins or leaves."""

BROKERS_SESSION_TIMEOUT_MS = 45_000
"""The default of Kafka, which goes for KIP-848 (group.consumer.session.timeout.ms)."""

NAME_TAKEN_SESSIONS = 1.5
"""A member of our `instance_id` that is in a stable group after so many session time-outs is
another process: one that we left behind ourselves sends no heartbeats, and the group has dropped it
by then."""

CLOSE_SECONDS = 10.0
"""A client that has not closed after so long never does: librdkafka's own thread may be in an
endless loop, in which it waits for a group that has shut it out."""

LOGIN_SECONDS = 3.0
"""A broker that lets us in answers within so long."""

_FENCED = {KafkaError.FENCED_INSTANCE_ID, KafkaError.FENCED_MEMBER_EPOCH, KafkaError._FENCED}


class Membership:
    """A client that is a member of a group, until the group shuts it out; then another client."""

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        group_id: str,
        instance_id: str,
        options: dict[str, Any],
        clock: Callable[[], float],
        make_client: MakeClient,
        background: Callable[[str, Callable[[], object]], BackgroundCall],
        describe_group: DescribeGroup,
    ) -> None:
        """Make the client. `options` for librdkafka go before ours, the settings' before both."""
        self._settings = settings
        self._topic = topic
        self._group_id = group_id
        self._instance_id = instance_id
        self._clock = clock
        self._make_client = make_client
        self._background = background
        self._describe_group = describe_group
        config: dict[str, Any] = {
            "group.id": group_id,
            "enable.auto.commit": False,
            "error_cb": self._on_error,
            **({"group.instance.id": instance_id} if instance_id else {}),
            **options,
            **client_config(settings),
        }
        is_classic = config.get("group.protocol") != "consumer"
        if is_classic:  # KIP-848 has these on the broker
            config = {
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": SESSION_TIMEOUT_MS,
                "heartbeat.interval.ms": HEARTBEAT_INTERVAL_MS,
                **config,
            }
        self.config = config
        self.is_cooperative = "cooperative" in str(
            config.get("partition.assignment.strategy", "cooperative")
        )
        """Partitions come and go one by one, not all at once."""
        self.may_leave_partitions_unassigned = is_classic and "group.instance.id" in config
        """See unassigned.py."""
        self.client: Consumer = make_client(Consumer, config)
        self.login = Login(settings, self.client, clock)
        self.is_abandoned = False
        """A call of the client may never return: the next poll takes another client."""
        self._shut_out: KafkaError | None = None
        """Why the client is no member of the group any more, and cannot become one again."""
        self._shut_out_at = 0.0
        self._login_error: KafkaError | None = None
        self._login_checks = RateLimit(clock)

    @property
    def is_shut_out(self) -> bool:
        """Whether this client's membership has ended for good."""
        return self._shut_out is not None or self.is_abandoned

    def abandon(self) -> None:
        """Do without this client, and do not wait for it."""
        self.is_abandoned = True

    def note_shut_out(self, error: KafkaError) -> bool:
        """Whether the error says that this client's membership has ended for good."""
        # librdkafka delivers what ended a client as _FATAL, with the cause in the text.
        if error.code() not in _FENCED | {KafkaError._FATAL} and not error.fatal():
            return False
        if self._shut_out is None:
            self._shut_out, self._shut_out_at = error, self._clock()
            log.warning("shut out of the group %s: %s", self._group_id, error.str())
        return True

    def check_name(self) -> None:
        """Return unless another process is a member under our `instance_id`.

        After an outage Kafka may take two requests of one client for two clients, and shut out the
        one that waits for an answer. Its twin is in the group then, until its session is over,
        which in a rebalance begins when that is complete. A process that has our name stays. Raises
        Fenced if it does, Unavailable while that is open.
        """
        if self.is_abandoned:  # the other member of our name is the client that we abandon
            return
        if not self._instance_id:
            return
        group = self._describe_group(self._settings, self._group_id, self._topic)
        if self._instance_id not in {member.instance_id for member in group.members}:
            return
        session_ms = int(self.config.get("session.timeout.ms", BROKERS_SESSION_TIMEOUT_MS))
        if self._clock() - self._shut_out_at > NAME_TAKEN_SESSIONS * session_ms / 1000:
            if not group.is_stable:
                # It waits for members that joined and do not go on. A process would have gone on;
                # and if one did, it will find us to have its name, and the group to be stable.
                return
            why = self._shut_out.str() if self._shut_out is not None else ""
            raise Fenced(
                f"somebody else is in the group {self._group_id} in our name "
                f"({self._instance_id}; {why}): two processes with one INSTANCE_ID, or "
                "one that was thought dead; a restart joins anew"
            )
        raise Unavailable(
            f"there is a member {self._instance_id} in the group {self._group_id} besides us: "
            "another process of this name, or what an outage left of us"
        )

    def renew(self) -> None:
        """Take a new client in the place of one that was shut out or abandoned.

        Raises Fenced if that one does not close: it would keep a core busy for ever.
        """
        log.warning("joining the group %s anew", self._group_id)
        if not self.is_abandoned:
            closing = self._background("close", self.client.close)
            try:
                closing.outcome(CLOSE_SECONDS)
            except Unavailable as error:
                self.is_abandoned = True
                raise Fenced(f"{error}; a restart joins the group {self._group_id} anew") from None
        self._shut_out, self.is_abandoned = None, False
        self.client = self._make_client(Consumer, self.config | login_options(self._settings))
        self.login = Login(self._settings, self.client, self._clock)

    def _on_error(self, error: KafkaError) -> None:
        self._login_error = login_error(error, self._login_error)

    def check_login(self) -> None:
        """Raise if no broker lets us in: librdkafka would try for ever.

        ConfigurationError, since a restart may bring the new password; Unavailable if the password
        is in a file.
        """
        if self._login_error is None or not self._login_checks.allow():
            return
        refused, self._login_error = self._login_error, None
        try:
            self.client.list_topics(self._topic, timeout=LOGIN_SECONDS)
        except KafkaException:
            raise failed(self._settings, refused) from None
