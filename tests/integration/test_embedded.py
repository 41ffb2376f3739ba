"""The embedded servers themselves: what survives, what is left behind, what is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from nextclick.services.demo import local_servers
from nextclick.shared import embedded
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.kafka import Publisher, ensure_topics, read_offsets, retained_offsets
from nextclick.shared.messages import OutMessage
from nextclick.shared.runtime.settings import KafkaSettings
from tests.backend import Backend
from tests.waiting import until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.Server]:
    """One for all tests: whoever stops it restarts it."""
    server = embedded.start_kafka(tmp_path_factory.mktemp("kafka"))
    yield server
    server.kill()


def publish(settings: KafkaSettings, topic: str, value: bytes) -> None:
    publisher = Publisher(settings)
    publisher.send([OutMessage(topic, b"key", value)])
    publisher.wait_acknowledged()


def values(settings: KafkaSettings, topic: str) -> list[bytes | None]:
    return [m.value for m in read_offsets(settings, topic, retained_offsets(settings, topic))]


@pytest.mark.parametrize(
    "end",
    [pytest.param(embedded.Server.stop, marks=pytest.mark.long), embedded.Server.kill],
    ids=["stop", "kill"],
)
def test_what_a_broker_holds_survives_it(
    server: embedded.Server, end: Callable[[embedded.Server], None], name: str
) -> None:
    settings = KafkaSettings(bootstrap_servers=server.address, partitions=1)
    ensure_topics(settings, [name])
    publish(settings, name, b"before")
    address = server.address
    end(server)
    server.restart()
    assert server.address == address
    publish(settings, name, b"after")
    assert values(settings, name) == [b"before", b"after"]


def test_two_brokers_are_strangers(server: embedded.Server, name: str, tmp_path: Path) -> None:
    other = embedded.start_kafka(tmp_path / "other")
    try:
        ours = KafkaSettings(bootstrap_servers=server.address)
        theirs = KafkaSettings(bootstrap_servers=other.address)
        assert ensure_topics(ours, [name]) == [name]
        assert ensure_topics(theirs, [name]) == [name], "there it was not"
    finally:
        other.kill()


def test_a_broker_that_does_not_come_up_says_why(server: embedded.Server, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Address already in use"):
        embedded.start_kafka(tmp_path / "second", server.port)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_the_servers_end_with_whoever_started_them(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from shared import embedded;"
        "k = embedded.start_kafka(Path(sys.argv[1])); r = embedded.start_redis(Path(sys.argv[1]));"
        "print(k.process.pid, r.process.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until(lambda: not any(runs(pid) for pid in pids), "both are gone", 20)


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_servers_leave_the_file_of_others_that_run_alone(backend: Backend, tmp_path: Path) -> None:
    """`nextclick servers` a second time in one folder."""
    env_file = tmp_path / "nextclick.env"
    theirs = f"export NEXTCLICK_KAFKA__BOOTSTRAP_SERVERS={backend.bootstrap_servers}\n"
    env_file.write_text(theirs)
    with pytest.raises(ConfigurationError, match=rf"Kafka on {backend.bootstrap_servers}"):
        local_servers.serve(env_file, Console(quiet=True), threading.Event())
    assert env_file.read_text() == theirs


def test_servers_replace_the_file_of_those_that_are_gone_and_remove_only_their_own(
    tmp_path: Path,
) -> None:
    env_file = tmp_path / "nextclick.env"
    gone = f"export NEXTCLICK_KAFKA__BOOTSTRAP_SERVERS=127.0.0.1:{embedded.free_port()}\n"
    env_file.write_text(gone)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(local_servers.serve, env_file, Console(quiet=True), stop)
        try:
            until(lambda: env_file.read_text() != gone or running.done(), "they are up")
            assert "REDIS__URL" in env_file.read_text()
            env_file.write_text("somebody else's\n")
        finally:
            stop.set()
        running.result(60)
    assert env_file.read_text() == "somebody else's\n"
