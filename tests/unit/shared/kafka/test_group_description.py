from __future__ import annotations

from pathlib import Path

import pytest

from nextclick.shared.errors import ConfigurationError, NextclickError, Unavailable
from nextclick.shared.kafka import group_description
from nextclick.shared.kafka.group_description import (
    GroupDescription,
    GroupMember,
    describe_group_in_child,
)
from nextclick.shared.runtime.settings import KafkaSettings

DESCRIPTION = GroupDescription(
    True, (GroupMember("w", frozenset({0, 2})), GroupMember("", frozenset()))
)


def ask(monkeypatch: pytest.MonkeyPatch, code: str) -> GroupDescription:
    """Describe a group by a child that runs this code."""
    monkeypatch.setattr(group_description, "_CHILD", code)
    secret = KafkaSettings(client_config={"sasl.password": "s3cret"})
    return describe_group_in_child(secret, "g", "clicks")


def test_a_child_asks_with_the_settings_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from nextclick.shared.kafka import group_description as module\n"
        "from tests.unit.shared.kafka.test_group_description import DESCRIPTION\n"
        "def describe_group(settings, group, topic):\n"
        "    assert settings.client_config == {'sasl.password': 's3cret'}\n"
        "    assert (group, topic) == ('g', 'clicks')\n"
        "    return DESCRIPTION\n"
        "module.describe_group = describe_group\n"
        "module.main()\n"
    )
    assert ask(monkeypatch, code) == DESCRIPTION


@pytest.mark.parametrize(
    ("raised", "text"),
    [(ConfigurationError, "lacks Describe"), (Unavailable, "Kafka at localhost does not answer")],
)
def test_what_a_child_raises_is_raised(
    raised: type[NextclickError], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "from nextclick.shared import errors\n"
        "from nextclick.shared.kafka import group_description as module\n"
        "def describe_group(settings, group, topic):\n"
        f"    raise errors.{raised.__name__}({text!r})\n"
        "module.describe_group = describe_group\n"
        "module.main()\n"
    )
    with pytest.raises(raised, match=text):
        ask(monkeypatch, code)


def test_a_child_that_dies_is_a_kafka_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="exit code -9"):
        ask(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")


def test_nobody_else_asks_a_groups_coordinator_by_an_admin_client() -> None:
    """librdkafka may end the process of whoever does, by its issues 4605 and 5040."""
    root = Path(__file__).parents[4]
    requests = (
        "describe_consumer_groups",
        "delete_consumer_groups",
        "list_consumer_group_offsets",
        "alter_consumer_group_offsets",
    )
    asking = {
        path.name
        for folder in ("bench", "services", "shared", "trainer")
        for path in (root / folder).rglob("*.py")
        if any(f".{request}(" in path.read_text() for request in requests)
    }
    assert asking == {"group_description.py"}
