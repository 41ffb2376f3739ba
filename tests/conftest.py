from __future__ import annotations

import dataclasses
import os
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import redis
import torch
from confluent_kafka.admin import AdminClient

from nextclick.shared import embedded
from nextclick.shared.kafka import ensure_topics
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from tests.backend import Backend, choose, running
from tests.faults import children
from tests.faults.children import Child
from tests.integration.traffic import Answers
from tests.redis_cluster import Cluster

Launch = Callable[..., Child]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options are known only if they stand here."""
    parser.addoption(
        "--long", action="store_true", help="the long tests, too: make test-long, make faults"
    )
    parser.addoption("--containers", action="store_true", help="use it by make test-containers")
    parser.addoption("--soak", type=float, default=1.0, help="minutes of the soak: make soak")
    parser.addoption("--seed", type=int, default=1, help="of the faults of the soak")


def pytest_configure(config: pytest.Config) -> None:
    for name in [n for n in os.environ if n.startswith(PREFIX)]:
        del os.environ[name]  # the developer's own settings are none of the tests' business
    torch.set_num_threads(1)
    hypothesis.settings.register_profile(
        "nextclick",
        deadline=None,
        derandomize=True,
        # How fast examples are made says how busy the machine is.
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("nextclick")
    if not hasattr(config, "workerinput"):  # xdist's workers are told
        config.stash[_KIND] = choose()


def pytest_unconfigure(config: pytest.Config) -> None:
    if servers := config.stash.get(_SERVERS, None):
        servers.stack.close()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Of xdist, before a worker starts: all workers share one Kafka and one Redis."""
    node.workerinput["backend"] = dataclasses.asdict(started(node.config))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked_for = [name for name in ("long", "containers") if not config.getoption(f"--{name}")]
    later = [item for item in items if any(map(item.get_closest_marker, asked_for))]
    config.hook.pytest_deselected(items=later)
    items[:] = [item for item in items if item not in later]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI everything is installed, so there a skipped test is a failed one."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI"):
        assert isinstance(report.longrepr, tuple)
        report.outcome = "failed"
        report.longrepr = f"nothing may be skipped in CI: {report.longrepr[2]}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = len(terminalreporter.stats.get("skipped", []))
    if skipped:
        terminalreporter.write_line(
            f"{skipped} skipped because a program is missing (named below). `.ci/install` installs "
            "them all (Debian, as root); `make peers` installs Quix Streams, `make s3-server` "
            "builds versitygw"
        )


_KIND = pytest.StashKey[str]()


@dataclass(frozen=True)
class Servers:
    """What this run of the tests has started, and how to stop it."""

    backend: Backend
    stack: ExitStack


_SERVERS = pytest.StashKey[Servers]()


def started(config: pytest.Config) -> Backend:
    """The servers of this run of the tests, started at the first call."""
    if _SERVERS not in config.stash:
        with ExitStack() as stack:  # closed here only if a server does not start
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="nextclick-tests-"))
            backend = stack.enter_context(running(config.stash[_KIND], Path(folder)))
            config.stash[_SERVERS] = Servers(backend, stack.pop_all())
    return config.stash[_SERVERS].backend


def pytest_report_header(config: pytest.Config) -> str:
    return f"Kafka and Redis: {config.stash.get(_KIND, 'those of the controller')}"


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> Backend:
    """One Kafka and one Redis for all tests; whoever wants to break one starts his own."""
    given = getattr(request.config, "workerinput", {}).get("backend")
    return Backend(**given) if given else started(request.config)


@pytest.fixture(scope="module")
def three_brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.KafkaCluster]:
    cluster = embedded.start_kafka_cluster(tmp_path_factory.mktemp("three-brokers"))
    yield cluster
    cluster.kill()


@pytest.fixture
def kafka_cluster(three_brokers: embedded.KafkaCluster) -> Iterator[embedded.KafkaCluster]:
    """Three brokers (replication 3, min.insync 2) that a test may stop, kill and restart."""
    yield three_brokers
    three_brokers.repair()


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three servers that are one Redis Cluster; whoever wants to break one starts his own."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.close()


@pytest.fixture
def name() -> str:
    """A name that no other test uses, for topics, groups and keys."""
    return uuid.uuid4().hex[:12]


@pytest.fixture
def kafka(backend: Backend, name: str) -> Iterator[KafkaSettings]:
    """Kafka with topics of this test's own, deleted afterwards."""
    settings = KafkaSettings(
        bootstrap_servers=backend.bootstrap_servers,
        clicks_topic=f"clicks-{name}",
        recommendations_topic=f"recommendations-{name}",
        dlq_topic=f"clicks.dlq-{name}",
        items_topic=f"items-{name}",
        related_topic=f"items.related-{name}",
        partitions=4,
    )
    yield settings
    admin = AdminClient({"bootstrap.servers": backend.bootstrap_servers})
    mine = [topic for topic in admin.list_topics(timeout=10).topics if topic.endswith(name)]
    for future in admin.delete_topics(mine).values() if mine else ():
        future.result()


@pytest.fixture
def answers(kafka: KafkaSettings) -> Iterator[Answers]:
    """Reads what is answered, on topics that are there already."""
    ensure_topics(kafka, kafka.topics)
    reader = Answers(kafka)
    yield reader
    reader.close()


@pytest.fixture
def key_prefix(backend: Backend, name: str) -> Iterator[str]:
    """A key prefix of this test's own; its keys are deleted afterwards."""
    prefix = f"test:{name}:"
    yield prefix
    client = redis.Redis.from_url(backend.redis_url)
    for key in client.scan_iter(match=f"{prefix}*", count=1000):
        client.delete(key)
    client.close()


@pytest.fixture
def environ(
    backend: Backend, kafka: KafkaSettings, key_prefix: str, name: str, tmp_path: Path
) -> dict[str, str]:
    """The environment that points the services at this test's own everything."""
    return {
        **os.environ,
        f"{PREFIX}DEVICE": "cpu",
        f"{PREFIX}LOG_FORMAT": "text",  # tests read it as people do
        f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS": backend.bootstrap_servers,
        f"{PREFIX}KAFKA__CLICKS_TOPIC": kafka.clicks_topic,
        f"{PREFIX}KAFKA__RECOMMENDATIONS_TOPIC": kafka.recommendations_topic,
        f"{PREFIX}KAFKA__DLQ_TOPIC": kafka.dlq_topic,
        f"{PREFIX}KAFKA__ITEMS_TOPIC": kafka.items_topic,
        f"{PREFIX}KAFKA__RELATED_TOPIC": kafka.related_topic,
        f"{PREFIX}KAFKA__PARTITIONS": str(kafka.partitions),
        f"{PREFIX}REDIS__URL": backend.redis_url,
        f"{PREFIX}REDIS__KEY_PREFIX": key_prefix,
        f"{PREFIX}REGISTRY__URL": str(tmp_path / "registry"),
        f"{PREFIX}REGISTRY__POLL_SECONDS": "0.1",
        f"{PREFIX}WORKER__GROUP_ID": f"worker-{name}",
        f"{PREFIX}TRAINER__GROUP_ID": f"trainer-{name}",
        f"{PREFIX}DLQ__GROUP_ID": f"redrive-{name}",
        f"{PREFIX}TRAINER__EVENT_LOG": str(tmp_path / "event_log"),
        f"{PREFIX}TRAINER__TORCH_THREADS": "1",  # the machine may be busy with other tests
    }


@pytest.fixture
def launch(environ: dict[str, str], tmp_path: Path) -> Iterator[Launch]:
    """Start `nextclick ARGUMENTS`, logging to ARGUMENT-N.log; none outlives the test."""
    started: list[Child] = []

    def launch_one(*arguments: str, **overrides: str) -> Child:
        log = tmp_path / f"{arguments[0]}-{len(started)}.log"
        log.touch()
        started.append(Child(children.start(arguments, {**environ, **overrides}, log)))
        return started[-1]

    yield launch_one
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def logs(tmp_path: Path) -> Callable[[str], str]:
    """Everything that the processes started with one command have logged."""

    def read(command: str) -> str:
        return "".join(path.read_text() for path in sorted(tmp_path.glob(f"{command}-*.log")))

    return read
