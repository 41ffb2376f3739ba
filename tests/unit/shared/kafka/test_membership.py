"""Whose a name is after the group has shut a static member out."""

from __future__ import annotations

from typing import Any, cast

import pytest
from confluent_kafka import KafkaError

from nextclick.shared.errors import Fenced, Unavailable
from nextclick.shared.kafka.group_description import GroupDescription, GroupMember
from nextclick.shared.kafka.membership import NAME_TAKEN_SESSIONS, SESSION_TIMEOUT_MS, Membership
from nextclick.shared.runtime.settings import KafkaSettings

SOON, LATE = 1.0, NAME_TAKEN_SESSIONS * SESSION_TIMEOUT_MS / 1000 + 1
OURS, OTHER = GroupMember("w1", frozenset({0})), GroupMember("w2", frozenset({1}))


class Group:
    """Has shut the member w1 out at time 0."""

    def __init__(self) -> None:
        self.now = 0.0
        self.description = GroupDescription(True, ())
        self.membership = Membership(
            KafkaSettings(),
            "clicks",
            "worker",
            "w1",
            {},
            clock=lambda: self.now,
            make_client=lambda kind, config: cast(Any, None),
            background=cast(Any, None),
            describe_group=lambda settings, group_id, topic: self.description,
        )
        assert self.membership.note_shut_out(KafkaError(KafkaError.FENCED_INSTANCE_ID))

    def check(self, now: float, is_stable: bool, *members: GroupMember) -> None:
        self.now, self.description = now, GroupDescription(is_stable, members)
        self.membership.check_name()


@pytest.mark.parametrize("is_stable", [False, True])
def test_a_name_that_nobody_has_is_ours(is_stable: bool) -> None:
    Group().check(SOON, is_stable, OTHER)


@pytest.mark.parametrize("is_stable", [False, True])
def test_a_member_of_our_name_may_be_what_an_outage_left_of_us(is_stable: bool) -> None:
    with pytest.raises(Unavailable, match="besides us"):
        Group().check(SOON, is_stable, OURS, OTHER)


def test_a_process_goes_on_and_keeps_the_name() -> None:
    with pytest.raises(Fenced, match="in our name"):
        Group().check(LATE, True, OURS, OTHER)


def test_a_member_that_joined_and_never_goes_on_was_us() -> None:
    """Of two members whose answers an outage swallowed each waits for the other: minutes."""
    Group().check(LATE, False, OURS, OTHER)
