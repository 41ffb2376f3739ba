"""A Kafka that asks for SCRAM over TLS and lets nobody do what no ACL of SECURITY.md allows."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)

from nextclick.shared import embedded
from nextclick.shared.kafka import GroupOffsets, Publisher, ensure_topics
from nextclick.shared.messages import OutMessage
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from nextclick.shared.schemas import Click
from tests.integration.test_kafka_login import make_certificate
from tests.waiting import until

SECURITY = Path(__file__).parents[2] / "SECURITY.md"
PASSWORD = "hunter2"
TOPICS = ["clicks", "recommendations", "clicks.dlq", "items", "items.related"]
REAUTHENTICATE_SECONDS = 2
"""So often Kafka asks for the password again, also on connections that are open (KIP-368)."""
_MECHANISM = ScramMechanism.SCRAM_SHA_512


@dataclass(frozen=True)
class Rule:
    """One permission of a user."""

    operation: str
    kind: str
    """topic, group or transactional-id, as kafka-acls.sh has it."""
    name: str
    prefixed: bool = False

    def __str__(self) -> str:
        return f"{self.operation} {self.kind} {self.name}"

    def binding(self, user: str) -> AclBinding:
        pattern = ResourcePatternType.PREFIXED if self.prefixed else ResourcePatternType.LITERAL
        return AclBinding(
            ResourceType[self.kind.upper().replace("-", "_")],
            self.name,
            pattern,
            f"User:{user}",
            "*",
            AclOperation[re.sub(r"\B(?=[A-Z])", "_", self.operation).upper()],
            AclPermissionType.ALLOW,
        )


def documented(user: str) -> list[Rule]:
    """The permissions of a user in SECURITY.md."""
    rules = []
    for line in SECURITY.read_text().splitlines():
        if not line.startswith("kafka-acls.sh"):
            continue
        options = shlex.split(line)
        assert options[1:4] == ["…", "--add", "--allow-principal"], line
        pairs = list(zip(options[5::2], options[6::2], strict=True))
        assert {option for option, _ in pairs} <= {
            "--operation", "--topic", "--group", "--transactional-id", "--resource-pattern-type",
        }, line  # fmt: skip
        if options[4] == f"User:{user}":
            prefixed = ("--resource-pattern-type", "prefixed") in pairs
            rules += [
                Rule(operation, kind.removeprefix("--"), name, prefixed)
                for option, operation in pairs
                if option == "--operation"
                for kind, name in pairs
                if kind in ("--topic", "--group", "--transactional-id")
            ]
    assert rules, user
    return rules


@dataclass(frozen=True)
class Guarded:
    """A broker that asks for SCRAM over TLS, and lets nobody do what no ACL allows."""

    admin: AdminClient
    """May do everything."""
    all_powerful: KafkaSettings
    port: int
    ca: Path

    def user(self, rules: Iterable[Rule], password: str = PASSWORD) -> dict[str, object]:
        """A new user with these permissions; the client_config to log in with."""
        name = f"user-{uuid.uuid4().hex[:8]}"
        self.set_password(name, password)
        self.allow(name, rules)
        return {
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(self.ca),
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": name,
            "sasl.password": password,
        }

    def set_password(self, user: str, password: str) -> None:
        """Give a user, who may be new, this password in place of the one before."""
        scram = ScramCredentialInfo(_MECHANISM, 4096)
        made = UserScramCredentialUpsertion(user, scram, password.encode())
        self.admin.alter_user_scram_credentials([made])[user].result()

    def remove(self, user: str) -> None:
        """Let a user log in no more."""
        gone = UserScramCredentialDeletion(user, _MECHANISM)
        self.admin.alter_user_scram_credentials([gone])[user].result()

    def allow(self, user: str, rules: Iterable[Rule]) -> None:
        """Add permissions, and wait until the broker knows them."""
        bindings = [rule.binding(user) for rule in rules]
        for future in (self.admin.create_acls(bindings) if bindings else {}).values():
            future.result()
        known = AclBindingFilter(
            ResourceType.ANY,
            None,  # type: ignore[arg-type]
            ResourcePatternType.ANY,
            f"User:{user}",
            None,  # type: ignore[arg-type]
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        until(
            lambda: set(bindings) <= set(self.admin.describe_acls(known).result()),
            "the broker knows the ACLs",
        )

    def settings(self, login: dict[str, object]) -> KafkaSettings:
        """The settings of a client that logs in so."""
        address = f"127.0.0.1:{self.port}"
        return KafkaSettings(bootstrap_servers=address, client_config=login, partitions=1)

    def variables(self, login: dict[str, object]) -> dict[str, str]:
        """The environment of a service that logs in so."""
        return {
            f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{self.port}",
            f"{PREFIX}KAFKA__CLIENT_CONFIG": json.dumps(login),
        }

    def send(self, *messages: tuple[str, bytes]) -> None:
        """Produce to these topics, and wait until Kafka has it."""
        publisher = Publisher(self.all_powerful)
        publisher.send(OutMessage(topic, b"user", value) for topic, value in messages)
        publisher.wait_acknowledged()


@contextlib.contextmanager
def guarded_kafka(folder: Path) -> Iterator[Guarded]:
    """Such a broker of the caller's own, with the topics and a message in each."""
    key, certificate = make_certificate()
    (folder / "ca.pem").write_bytes(certificate)
    (folder / "server.pem").write_bytes(key + certificate)
    port = embedded.free_port()
    server = embedded.start_kafka(
        folder,
        listeners={"SASL_SSL": port},
        properties={
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",  # of the listener without a login: broker and test
            "allow.everyone.if.no.acl.found": "false",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(folder / "server.pem"),
            "connections.max.reauth.ms": str(1000 * REAUTHENTICATE_SECONDS),
        },
    )
    try:
        all_powerful = KafkaSettings(bootstrap_servers=server.address, partitions=1)
        ensure_topics(all_powerful, TOPICS)
        admin = AdminClient({"bootstrap.servers": server.address, "log_level": 0})
        made = Guarded(admin, all_powerful, port, folder / "ca.pem")
        made.send(
            ("clicks", click("0")),
            ("recommendations", b"{}"),
            ("clicks.dlq", b"{}"),
            ("items", b'{"item_id": "user"}'),
        )
        with closing(GroupOffsets(all_powerful, "clicks", "nextclick-worker")) as group:
            group.commit({0: 1})  # else `rebuild` has nothing to read
        yield made
    finally:
        server.kill()


def click(event_id: str) -> bytes:
    """A click as it lies on the topic."""
    made = Click(event_id=event_id, user_id="user", item_id="1", timestamp=1_700_000_000_000)
    return made.model_dump_json().encode()
