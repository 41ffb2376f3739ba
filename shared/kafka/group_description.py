"""The members of a consumer group and their partitions, asked for in a child process.

librdkafka's AdminClient may abort its whole process if the coordinator of a group goes away while
it is asked about the group (its issue 4605: its main thread frees the request twice). Only requests
to a group's coordinator go that way; those about topics, which librdkafka sends to the controller,
do not (`rd_kafka_admin_coord_request` and `rd_kafka_admin_worker` in its rdkafka_admin.c). So a
child asks, which may die. It is rarely needed: once or twice after a static member has joined
(unassigned.py), and when one was shut out of its group (Membership.check_name).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient
from pydantic import TypeAdapter

from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.kafka.client import (
    DESCRIBE,
    REQUEST_SECONDS,
    MakeClient,
    Permission,
    client_config,
    failed,
    make_client,
)
from nextclick.shared.runtime.processes import die_with_parent
from nextclick.shared.runtime.settings import KafkaSettings

_START_SECONDS = 10.0
"""Longest time in which a child starts, on a busy machine."""
_REFUSED = 3
"""Exit code of a child whose output is the text of a ConfigurationError."""
_CHILD = "from nextclick.shared.kafka.group_description import main; main()"


@dataclass(frozen=True)
class GroupMember:
    """A member of a consumer group."""

    instance_id: str
    """Its group.instance.id (KIP-345); empty if it is dynamic."""
    partitions: frozenset[int]
    """Its partitions of the topic."""


@dataclass(frozen=True)
class GroupDescription:
    """A consumer group as its coordinator sees it."""

    is_stable: bool
    """No rebalance is under way."""
    members: tuple[GroupMember, ...]


DescribeGroup: TypeAlias = Callable[[KafkaSettings, str, str], GroupDescription]
"""The type of `describe_group_in_child`; a simulation passes its own."""

_DESCRIPTION = TypeAdapter(GroupDescription)


def describe_group(
    settings: KafkaSettings, group_id: str, topic: str, make_client: MakeClient = make_client
) -> GroupDescription:
    """Describe a group and its assignment of a topic. May abort the process: see above.

    Raises Unavailable if Kafka does not answer, ConfigurationError for a missing permission.
    """
    admin = make_client(AdminClient, client_config(settings))
    asked = admin.describe_consumer_groups([group_id], request_timeout=REQUEST_SECONDS)
    try:
        group = asked[group_id].result()
    except KafkaException as error:
        raise failed(settings, error.args[0], Permission(DESCRIBE, "group", group_id)) from None
    return GroupDescription(
        group.state == ConsumerGroupState.STABLE,
        tuple(
            GroupMember(
                member.group_instance_id or "",
                frozenset(p.partition for p in places if p.topic == topic),
            )
            for member in group.members
            for places in [member.assignment.topic_partitions]
        ),
    )


def describe_group_in_child(settings: KafkaSettings, group_id: str, topic: str) -> GroupDescription:
    """As `describe_group`, which cannot end this process; a child that dies is Unavailable."""
    # By stdin: the settings may hold a password.
    request = json.dumps([settings.model_dump(mode="json"), group_id, topic])
    modules = os.pathsep.join(filter(None, sys.path))
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-c", _CHILD],
            input=request,
            capture_output=True,
            text=True,
            timeout=_START_SECONDS + REQUEST_SECONDS,
            env={**os.environ, "PYTHONPATH": modules},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"Kafka was not asked for the group {group_id}: {error}") from None
    if child.returncode == 0:
        return _DESCRIPTION.validate_json(child.stdout)
    if child.returncode == _REFUSED:
        raise ConfigurationError(child.stdout)
    last_line = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
    raise Unavailable(f"Kafka does not describe the group {group_id}: {last_line}")


def main() -> None:
    """Be the child: read a request from stdin, write the answer to stdout."""
    die_with_parent()
    settings, group_id, topic = json.load(sys.stdin)
    try:
        found = describe_group(KafkaSettings.model_validate(settings), group_id, topic)
    except ConfigurationError as error:
        sys.stdout.write(str(error))
        sys.exit(_REFUSED)
    except Unavailable as error:
        sys.exit(str(error))
    sys.stdout.write(_DESCRIPTION.dump_json(found).decode())
