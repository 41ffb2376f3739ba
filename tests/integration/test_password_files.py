"""Passwords in files change while everything runs: nobody is started again, and nothing is lost."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx2 as httpx
import pytest
import redis

from nextclick.shared import embedded
from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.kafka import (
    ClickConsumer,
    LagMonitor,
    Publisher,
    TopicReader,
    TransactionalPublisher,
)
from nextclick.shared.messages import Message, OutMessage
from nextclick.shared.redis import RedisSessions
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from nextclick.shared.schemas import Click
from tests.faults import children
from tests.faults.children import Child
from tests.integration.guarded_kafka import Guarded, documented, guarded_kafka
from tests.integration.traffic import publish_model
from tests.redis_cluster import Cluster
from tests.waiting import until

FORMER, LATTER = "former-password", "latter/#?@ü-password"
RULES = ["~*", "+@all"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "password"
    made.write_text(f"{FORMER}\n")
    return made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[embedded.Server]:
    made = embedded.start_redis(tmp_path, None)
    with redis.Redis(port=made.port) as admin:
        change(admin, FORMER)
    yield made
    made.kill()


def change(admin: redis.Redis, password: str) -> None:
    """Give the user another password in place of the one before, and hang up."""
    admin.acl_setuser("u", enabled=True, reset=True, passwords=[f"+{password}"])
    admin.execute_command("ACL", "SETUSER", "u", *RULES)
    admin.execute_command("CLIENT", "KILL", "USER", "u")


def store(url: str, file: Path, *, cluster: bool = False) -> RedisSessions:
    return RedisSessions(
        url,
        key_prefix="",
        gap_ms=0,
        ttl_seconds=60,
        timeout_seconds=5,
        cluster=cluster,
        password_file=str(file),
    )


CLICKS = [Click(event_id=str(i), user_id=str(i), item_id="i", timestamp=1) for i in range(20)]


def try_a_change(opened: RedisSessions, file: Path, change: Callable[[str], None]) -> None:
    """It works, waits while the file is behind, and works again."""
    opened.append(CLICKS)
    change(LATTER)
    for ask in (opened.ping, lambda: opened.append(CLICKS)):
        with pytest.raises(Unavailable, match=r"trying again .*PASSWORD_FILE") as caught:
            ask()
        assert FORMER not in str(caught.value)
        assert LATTER not in str(caught.value)
    for content in (b"", b"\xff"):  # in the middle of being written
        file.write_bytes(content)
        with pytest.raises(Unavailable, match="PASSWORD_FILE"):
            opened.ping()
    file.write_text(LATTER)
    opened.ping()
    assert opened.append(CLICKS) == [["i"]] * len(CLICKS)


def test_redis(server: embedded.Server, file: Path) -> None:
    opened = store(f"redis://u@{server.address}", file)
    with redis.Redis(port=server.port) as admin:
        try_a_change(opened, file, lambda password: change(admin, password))
        opened.close()


def test_redis_with_one_password_for_all(tmp_path: Path, file: Path) -> None:
    """A URL without a user: `requirepass`."""
    server = embedded.start_redis(tmp_path, None, "--requirepass", FORMER)
    try:
        opened = store(f"redis://{server.address}", file)
        assert opened.append(CLICKS[:1]) == [["i"]]
        opened.close()
    finally:
        server.kill()


def test_a_redis_cluster(tmp_path: Path, file: Path) -> None:
    cluster = Cluster(tmp_path, 3)

    def change_everywhere(password: str) -> None:
        for node in cluster.nodes:
            with cluster.client(node) as admin:
                change(admin, password)

    try:
        change_everywhere(FORMER)
        opened = store(f"redis://u@{cluster.nodes[0].address}", file, cluster=True)
        try_a_change(opened, file, change_everywhere)
        opened.close()
    finally:
        cluster.close()


def test_two_passwords_are_refused(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="leave it out of the URL") as caught:
        store(f"redis://u:{FORMER}@localhost", file)
    assert "-password" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"PASSWORD_FILE = .*No such file"):
        store("redis://u@localhost", tmp_path / "none")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded_kafka(tmp_path_factory.mktemp("kafka")) as made:
        yield made


EVERYBODY = ["worker", "trainer", "shop", "api", "explain"]


def user_of_everything(guarded: Guarded) -> dict[str, object]:
    """The client_config of a user with all permissions, without the password."""
    rules = {rule for name in EVERYBODY for rule in documented(name)}
    login = guarded.user(rules, FORMER)
    del login["sasl.password"]
    return login


@pytest.mark.long
def test_every_client_of_kafka(guarded: Guarded, file: Path) -> None:
    login = user_of_everything(guarded)
    settings = guarded.settings(login).model_copy(update={"sasl_password_file": str(file)})
    with closing(Clients(settings)) as clients:
        clients.work()
        guarded.set_password(str(login["sasl.username"]), LATTER)
        with pytest.raises(Unavailable, match=r"trying again .*SASL_PASSWORD_FILE") as caught:
            clients.poll_for(30)
        assert "-password" not in str(caught.value)
        file.write_text(LATTER)
        until(lambda: works(clients.work), "all of them are let in again")


class Clients:
    """One of each kind that lives long."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.consumer = ClickConsumer(settings, "clicks", "nextclick-worker")
        self.publisher = Publisher(settings)
        self.transactions = TransactionalPublisher(settings, "nextclick-worker-1", "clicks")
        self.monitor = LagMonitor(settings, "clicks", "nextclick-worker")
        self.reader = TopicReader(settings, ["recommendations"])
        self.transactions.connect()

    def work(self) -> None:
        """Raise unless each of them gets an answer of Kafka now."""
        mark = uuid.uuid4().hex.encode()
        self.publisher.send([OutMessage("clicks", b"user", mark)])
        self.publisher.wait_acknowledged(5)
        offsets: dict[int, int] = {}
        deadline = time.monotonic() + 10
        while not offsets:
            offsets = {m.partition: m.offset + 1 for m in self.poll() if m.value == mark}
            assert time.monotonic() < deadline
        answer = OutMessage("recommendations", b"user", mark)
        try:
            self.transactions.begin([answer], offsets, self.consumer.group_metadata()).outcome()
        except Unavailable:
            self.transactions.reconnect()
            raise
        # Kafka counts the offsets of a transaction a moment after it has acknowledged its end.
        until(lambda: self.monitor.lag() == 0, "all is committed", seconds=5)
        self.monitor.ping(5)
        assert self.consumer.topic_id()
        while not any(m.value == mark for m in self.reader.poll()):
            assert time.monotonic() < deadline

    def poll(self) -> list[Message]:
        return self.consumer.poll(100, 0.1)

    def poll_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.poll()

    def close(self) -> None:
        self.consumer.close()
        self.monitor.close()
        self.reader.close()


def works(action: Callable[[], None]) -> bool:
    with suppress(Exception):
        action()
        return True
    return False


@pytest.mark.long
@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
def test_worker_trainer_and_api_go_on(
    guarantee: str, guarded: Guarded, server: embedded.Server, file: Path, tmp_path: Path
) -> None:
    """Kafka and Redis have new passwords before the files do, and hang up; later they have them."""
    kafka_file = tmp_path / "kafka-password"
    kafka_file.write_text(FORMER)
    login = user_of_everything(guarded)
    publish_model(tmp_path / "registry", seed=1)
    ports = {name: embedded.free_port() for name in ("WORKER", "TRAINER", "API")}
    environ = {
        **os.environ,
        **guarded.variables(login),
        f"{PREFIX}DEVICE": "cpu",
        f"{PREFIX}LOG_FORMAT": "text",
        f"{PREFIX}KAFKA__SASL_PASSWORD_FILE": str(kafka_file),
        f"{PREFIX}REDIS__URL": f"redis://u@{server.address}/0",
        f"{PREFIX}REDIS__PASSWORD_FILE": str(file),
        f"{PREFIX}REGISTRY__URL": str(tmp_path / "registry"),
        f"{PREFIX}WORKER__GUARANTEE": guarantee,
        f"{PREFIX}WORKER__METRICS_PORT": str(ports["WORKER"]),
        f"{PREFIX}TRAINER__METRICS_PORT": str(ports["TRAINER"]),
        f"{PREFIX}TRAINER__EVENT_LOG": str(tmp_path / "event_log"),
        f"{PREFIX}TRAINER__MIN_CLICKS": "1000000",
        f"{PREFIX}API__PORT": str(ports["API"]),
    }
    logs = {name: tmp_path / f"{name}.log" for name in ("worker", "trainer", "api")}
    services = {name: Child(children.start([name], environ, log)) for name, log in logs.items()}
    reader = TopicReader(guarded.all_powerful, ["recommendations"], at_end=True)

    def a_click_is_answered() -> bool:
        body = {"user_id": "u", "item_id": "1", "event_id": uuid.uuid4().hex}
        with suppress(httpx.HTTPError):
            answer = httpx.post(f"http://127.0.0.1:{ports['API']}/clicks", json=body, timeout=10)
            if answer.status_code == 202:
                event = body["event_id"].encode()
                until(
                    lambda: any(event in (m.value or b"") for m in reader.poll()),
                    "the click is answered",
                )
                return True
        return False

    try:
        until(lambda: all(map(reaches_all, ports.values())), "all are ready")
        until(a_click_is_answered, "a click is taken and answered")
        guarded.set_password(str(login["sasl.username"]), LATTER)
        with redis.Redis(port=server.port) as admin:
            change(admin, LATTER)
        until(lambda: not any(map(reaches_all, ports.values())), "nobody is let in any more")
        kafka_file.write_text(LATTER)
        file.write_text(LATTER)
        watch = time.monotonic()
        until(lambda: all(map(reaches_all, ports.values())), "all are let in again")
        until(a_click_is_answered, "a click is taken and answered")
        assert (
            time.monotonic() - watch < 60
        )  # a transaction of librdkafka hung until it was overdue
        assert all(service.poll() is None for service in services.values()), "none has ended"
    finally:
        for service in services.values():
            service.terminate()
            service.wait(30)
        reader.close()
    for log in logs.values():
        assert FORMER not in log.read_text()
        assert LATTER not in log.read_text()


def reaches_all(port: int) -> bool:
    """Whether each check of /readyz is ok; the api is ready without its servers, too."""
    with suppress(httpx.HTTPError):
        results = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).json()
        return set(results.values()) == {"ok"}
    return False
