"""`make faults` breaks everything at length and prints a line a fault; `make test` a short cut."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from nextclick.shared.embedded import KafkaCluster, Server, start_kafka
from tests.backend import Backend
from tests.faults.oracle import Verdict
from tests.faults.stand import Stand

GUARANTEES = ("at_least_once", "exactly_once")
OF_THE_TRAINER = ("test_trainer.py", "test_event_log.py")
"""What these promise: each click is in the event log once."""

MakeStand = Callable[..., Stand]
Report = Callable[[str, Verdict, float], None]


@dataclass(frozen=True)
class Line:
    """One fault, as a row of the table in docs/guarantees.md."""

    what: str
    promised: str
    verdict: Verdict
    recovery_seconds: float
    test: str

    def __str__(self) -> str:
        v = self.verdict
        counts = (v.sent, v.lost, v.doubled, v.wrong_histories + v.wrong_lists)
        cells = " | ".join(f"{count:,}" for count in counts)
        seconds = f"{self.recovery_seconds:.0f}"
        return f"| {self.what} | {self.promised} | {cells} | {seconds} | `{self.test}` |"


HEADINGS = "What was broken | Promised | Clicks | Lost | Doubled | Wrong | Waited, s | Test"


ReportWait = Callable[[str, str, str, float], None]


@dataclass(frozen=True)
class Wait:
    """The longest that a click waited."""

    what: str
    protocol: str
    guarantee: str
    seconds: float


_LINES = pytest.StashKey[list[Line]]()
_WAITS = pytest.StashKey[list[Wait]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_LINES] = []
    config.stash[_WAITS] = []


def each_guarantee(*short: str) -> pytest.MarkDecorator:
    """Parametrize by guarantee; only these belong to the short cut."""
    cases = [pytest.param(g, marks=() if g in short else pytest.mark.long) for g in GUARANTEES]
    return pytest.mark.parametrize("guarantee", cases)


@pytest.fixture
def clicks_in_all(request: pytest.FixtureRequest) -> int:
    """How many clicks a fault is tried on."""
    return 50_000 if request.config.getoption("--long") else 4_000


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--long"))


@pytest.fixture
def soak_minutes(request: pytest.FixtureRequest) -> float:
    return float(request.config.getoption("--soak"))


@pytest.fixture
def soak_seed(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--seed"))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Server]:
    """A Kafka that a test may break."""
    server = start_kafka(tmp_path)
    yield server
    server.process.send_signal(signal.SIGCONT)
    server.kill()


@pytest.fixture
def stand(tmp_path: Path, backend: Backend) -> Iterator[MakeStand]:
    """Make stands on the Kafka of all tests, or on one that may be broken."""
    with ExitStack() as stack:

        def make(
            guarantee: str = "at_least_once", kafka: KafkaCluster | Server | None = None
        ) -> Stand:
            if isinstance(kafka, KafkaCluster):
                made = Stand(tmp_path, guarantee, kafka.bootstrap_servers, replication_factor=3)
            else:
                address = kafka.address if kafka else backend.bootstrap_servers
                made = Stand(tmp_path, guarantee, address)
            if kafka is None:
                stack.callback(made.delete_topics)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Note what came of a fault, for the table at the end, and see that the promise was kept."""

    file = request.path.name

    def note(what: str, verdict: Verdict, recovery_seconds: float) -> None:
        promised = next((g for g in GUARANTEES if what.endswith(f", {g}")), None)
        if promised is None:
            promised = "logged once" if file in OF_THE_TRAINER else "at_least_once"
        row = what.removesuffix(f", {promised}"), promised.replace("_", " ")
        test = f"{file}::{request.function.__name__}"
        request.config.stash[_LINES].append(Line(*row, verdict, recovery_seconds, test))
        assert verdict.exact, verdict
        if what.endswith(", exactly_once"):
            assert verdict.doubled == 0, verdict

    return note


@pytest.fixture
def report_wait(request: pytest.FixtureRequest) -> ReportWait:
    """Note the longest wait of a click, for the table at the end."""

    def note(what: str, protocol: str, guarantee: str, seconds: float) -> None:
        request.config.stash[_WAITS].append(Wait(what, protocol, guarantee, seconds))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if waits := terminalreporter.config.stash[_WAITS]:
        terminalreporter.section("longest wait of a click, s")
        write_waits(waits, terminalreporter.write_line)
    if lines := terminalreporter.config.stash[_LINES]:
        terminalreporter.section("faults")
        write_lines(lines, terminalreporter.write_line)


def write_waits(waits: Sequence[Wait], write: Callable[[str], None]) -> None:
    columns = sorted({(wait.protocol, wait.guarantee) for wait in waits})
    write(f"| | {' | '.join(', '.join(column) for column in columns)} |")
    write("|---" * (1 + len(columns)) + "|")
    for what in dict.fromkeys(wait.what for wait in waits):
        seconds = {(w.protocol, w.guarantee): w.seconds for w in waits if w.what == what}
        cells = [f"{seconds[c]:.1f}" if c in seconds else "" for c in columns]
        write(f"| {what} | {' | '.join(cells)} |")


def write_lines(lines: Sequence[Line], write: Callable[[str], None]) -> None:
    write(f"| {HEADINGS} |")
    write("|---" * len(HEADINGS.split("|")) + "|")
    for line in lines:
        write(str(line))
