"""A shop of a test's own: its topics, its Redis, its workers, its clicks, and what came of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from confluent_kafka.admin import AdminClient

from nextclick.shared import embedded
from nextclick.shared.errors import Unavailable
from nextclick.shared.kafka import LagMonitor, ensure_topics, read_offsets, retained_offsets
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from nextclick.shared.schemas import Click, Recommendation
from tests.faults import children
from tests.faults.oracle import Verdict, judge
from tests.integration.traffic import Shop, publish_model
from tests.waiting import until

DURABLE_REDIS = ("--appendonly", "yes", "--appendfsync", "always")
"""Options for a server that remembers every click it has answered for."""
_ASSIGNED = re.compile(r"assigned partitions \[\d")


class Stand:
    """Topics, a Redis that a test may break, and everything of nextclick around them."""

    def __init__(
        self,
        folder: Path,
        guarantee: str,
        bootstrap_servers: str,
        replication_factor: int = 1,
    ) -> None:
        """Start Redis, create the topics, publish a first model.

        Topics and groups are this stand's own: Kafka is shared with other tests.
        """
        self.folder = folder
        self.redis = embedded.start_redis(folder, None, *DURABLE_REDIS)
        self.registry = folder / "registry"
        suffix = uuid.uuid4().hex[:12]
        self.group = f"worker-{suffix}"
        self.kafka = KafkaSettings(
            bootstrap_servers=bootstrap_servers,
            clicks_topic=f"clicks-{suffix}",
            recommendations_topic=f"recommendations-{suffix}",
            dlq_topic=f"clicks-dlq-{suffix}",
            items_topic=f"items-{suffix}",
            partitions=4,
            replication_factor=replication_factor,
        )
        ensure_topics(self.kafka, self.kafka.topics)
        self.environ = {
            **os.environ,
            f"{PREFIX}DEVICE": "cpu",
            f"{PREFIX}LOG_FORMAT": "text",
            f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            f"{PREFIX}KAFKA__CLICKS_TOPIC": self.kafka.clicks_topic,
            f"{PREFIX}KAFKA__RECOMMENDATIONS_TOPIC": self.kafka.recommendations_topic,
            f"{PREFIX}KAFKA__DLQ_TOPIC": self.kafka.dlq_topic,
            f"{PREFIX}KAFKA__ITEMS_TOPIC": self.kafka.items_topic,
            f"{PREFIX}REDIS__URL": f"redis://{self.redis.address}/0",
            f"{PREFIX}REDIS__TIMEOUT_SECONDS": "2",
            f"{PREFIX}REGISTRY__URL": str(self.registry),
            f"{PREFIX}REGISTRY__POLL_SECONDS": "0.1",
            f"{PREFIX}WORKER__GROUP_ID": self.group,
            f"{PREFIX}TRAINER__GROUP_ID": f"trainer-{suffix}",
            # With a name the next worker is the heir of a killed one at once, not 10 s later.
            f"{PREFIX}WORKER__INSTANCE_ID": "w",
            f"{PREFIX}WORKER__GUARANTEE": guarantee,
            f"{PREFIX}WORKER__MAX_BATCH": "64",
        }
        publish_model(self.registry, seed=1)
        self._shop = Shop(self.kafka)
        self._lag = LagMonitor(self.kafka, self.kafka.clicks_topic, self.group)
        self._sent: list[Click] = []
        self._topic_length = 0
        self._children: list[ForkServerProcess] = []
        self._cold: list[subprocess.Popen[bytes]] = []

    def start(
        self, *arguments: str, prepare: children.Prepare | None = None, **settings: str
    ) -> ForkServerProcess:
        """Start a command of nextclick; `prepare` may tamper with the process."""
        child = children.start(
            arguments,
            {**self.environ, **settings},
            self.folder / f"{arguments[0]}-{len(self._children)}.log",
            prepare,
        )
        self._children.append(child)
        return child

    def worker(self, prepare: children.Prepare | None = None, **settings: str) -> ForkServerProcess:
        """Start a worker."""
        return self.start("worker", prepare=prepare, **settings)

    def cold_worker(self, **settings: str) -> Path:
        """Start a worker as a supervisor does, with nothing imported; where it logs."""
        path = self.folder / f"cold-{len(self._cold)}.log"
        with path.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "nextclick", "worker"],
                env={**self.environ, **settings},
                cwd=self.folder,
                stdout=file,
                stderr=file,
            )
        self._cold.append(process)
        return path

    def log(self, child: ForkServerProcess) -> str:
        """What a child has logged."""
        number = self._children.index(child)
        paths = self.folder.glob(f"*-{number}.log")  # none before it has begun
        return "".join(path.read_text(errors="replace") for path in paths)

    def wait_for_partitions(self, child: ForkServerProcess) -> None:
        """Wait until a worker owns partitions."""
        until(lambda: _ASSIGNED.search(self.log(child)), "partitions")

    def send(self, clicks: Sequence[Click], *, patiently: bool = False) -> None:
        """Produce clicks and wait until Kafka has them; `patiently`: however long it is away."""
        if patiently:
            self._shop.send_patiently(clicks)
        else:
            self._shop.send(clicks)
        self._sent += clicks
        self._topic_length += len(clicks)

    @property
    def sent(self) -> int:
        """Messages on the clicks topic."""
        return self._topic_length

    def answers(self) -> list[Recommendation]:
        """All answers that a reader of committed messages who begins now sees."""
        topic = self.kafka.recommendations_topic
        messages = read_offsets(self.kafka, topic, retained_offsets(self.kafka, topic))
        return [Recommendation.model_validate_json(m.value or b"") for m in messages]

    def committed(self) -> int:
        """How many messages of the clicks topic the group has dealt with."""
        return self._topic_length - self._lag.lag()

    def wait_for_some(self, count: int) -> None:
        """Wait until more than `count` messages are dealt with."""
        until(lambda: self.committed() > count, f"more than {count} messages dealt with")

    def wait_for_all(self, seconds: float = 60.0) -> None:
        """Wait until everything sent is dealt with."""

        def all_committed() -> bool:
            try:
                return self._lag.lag() == 0
            except Unavailable:  # a broker that has just come back may not lead its partitions yet
                return False

        until(all_committed, "everything dealt with", seconds)

    def verdict(self) -> Verdict:
        """Judge everything sent and everything answered so far."""
        return judge(self._sent, self.answers(), self.registry)

    def send_garbage(self, messages: Sequence[tuple[bytes | None, bytes | None]]) -> None:
        """Produce keys and values that are no clicks."""
        self._shop.send_raw(messages)
        self._topic_length += len(messages)

    def follow(self, group_id: str) -> None:
        """Look at another group's offsets from now on."""
        self._lag.close()
        self._lag = LagMonitor(self.kafka, self.kafka.clicks_topic, group_id)

    def reconnect_shop(self) -> None:
        """Produce through a client that knows the topic as it is now."""
        self._shop = Shop(self.kafka)

    def delete_topics(self) -> None:
        """Leave nothing on a Kafka that others use."""
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap_servers})
        for future in admin.delete_topics(self.kafka.topics).values():
            future.result()

    def close(self) -> None:
        """Leave nothing running."""
        for child in self._children:
            if child.pid is not None and child.is_alive():
                os.kill(child.pid, signal.SIGCONT)
                child.kill()
            child.join()
        for process in self._cold:
            process.kill()
            process.wait()
        self._lag.close()
        self.redis.process.send_signal(signal.SIGCONT)
        self.redis.kill()


def kill(child: ForkServerProcess) -> None:
    """SIGKILL, and wait until it is gone."""
    child.kill()
    child.join()


def pause(pid: int | None) -> None:
    """SIGSTOP: it is there, and does nothing."""
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)


def go_on(pid: int | None) -> None:
    """SIGCONT."""
    assert pid is not None
    os.kill(pid, signal.SIGCONT)


def memory_mb(pid: int | None) -> float:
    """What a process holds in memory now (Linux)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files(pid: int | None) -> int:
    """How many files and connections a process has open (Linux)."""
    return len(os.listdir(f"/proc/{pid}/fd"))


class Stopwatch:
    """How long it took from one moment to another."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._began
