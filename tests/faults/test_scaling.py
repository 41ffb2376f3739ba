"""Workers join and leave while clicks flow: nobody waits for ever, and nothing is lost.

Members are dynamic here, as `docker compose up --scale worker=3` makes them.
"""

from __future__ import annotations

import json
import signal
from multiprocessing.context import ForkServerProcess

import pytest
from confluent_kafka import libversion

from nextclick.shared.runtime.settings import PREFIX
from tests.faults.conftest import MakeStand, Report, each_guarantee
from tests.faults.oracle import Verdict
from tests.faults.stand import Stand, Stopwatch, kill
from tests.integration.traffic import make_clicks
from tests.waiting import until

INSTANCE_ID = f"{PREFIX}WORKER__INSTANCE_ID"
CLIENT_CONFIG = f"{PREFIX}KAFKA__CLIENT_CONFIG"
LIBRDKAFKA = libversion()[1]
CURRENT = 0x02100000
"""2.16. One of 2.6 gives all partitions up as lost when a commit meets a rebalance: some hundred
answers then come twice."""
PART = 100
"""Clicks sent between two looks."""


class Flow:
    """Clicks that go on while something else is waited for."""

    def __init__(self, stand: Stand, count: int, seed: int) -> None:
        self._stand = stand
        self._clicks = make_clicks(count, users=200, seed=seed)

    def until(self, condition: object, what: str) -> None:
        """Send a part after the other until the condition holds."""
        assert callable(condition)

        def look() -> object:
            self._send()
            return condition()

        until(look, what)

    def _send(self) -> None:
        part, self._clicks = self._clicks[:PART], self._clicks[PART:]
        self._stand.send(part)

    def finish(self) -> None:
        """Send what is left."""
        while self._clicks:
            self._send()


def owned(stand: Stand, worker: ForkServerProcess) -> set[int]:
    """The partitions that a worker has, as it has logged."""
    partitions: set[int] = set()
    for line in stand.log(worker).splitlines():
        for verb, change in (
            ("assigned partitions", partitions.update),
            ("revoked partitions", partitions.difference_update),
        ):
            _, found, numbers = line.partition(verb)
            if found:
                change(int(n) for n in numbers.strip(" []").split(",") if n.strip())
    return partitions


def shared_out(stand: Stand, *workers: ForkServerProcess) -> bool:
    """Every worker has partitions, and each partition has one worker."""
    parts = [owned(stand, worker) for worker in workers]
    return all(parts) and sorted(p for part in parts for p in part) == [0, 1, 2, 3]


@pytest.mark.parametrize("joining", [pytest.param("one by one", marks=pytest.mark.long), "at once"])
@pytest.mark.parametrize("leaving", ["SIGTERM", pytest.param("SIGKILL", marks=pytest.mark.long)])
@each_guarantee("at_least_once")
def test_three_workers_join_and_leave(
    guarantee: str, joining: str, leaving: str, stand: MakeStand, report: Report
) -> None:
    ours = stand(guarantee)
    verdict, seconds = join_and_leave(ours, joining, leaving)
    if leaving == "SIGTERM" and LIBRDKAFKA >= CURRENT:
        assert verdict.doubled == 0, "a planned change of members repeats nothing"
    report(f"three join {joining}, two leave by {leaving}, {guarantee}", verdict, seconds)


@pytest.mark.parametrize(
    "strategy",
    # KIP-848 came with librdkafka 2.12.
    ["range", *["consumer"] * (LIBRDKAFKA >= CURRENT)],
)
@each_guarantee()
def test_three_workers_of_another_group_protocol(
    guarantee: str, strategy: str, stand: MakeStand, report: Report
) -> None:
    """An eager strategy takes all partitions away at each change; `consumer` is KIP-848."""
    ours = stand(guarantee)
    option = {
        "range": {"partition.assignment.strategy": "range"},
        "consumer": {"group.protocol": "consumer"},
    }[strategy]
    ours.environ[CLIENT_CONFIG] = json.dumps(option)
    verdict, seconds = join_and_leave(ours, "one by one", "SIGTERM")
    report(f"three join, two leave, {strategy}, {guarantee}", verdict, seconds)


def join_and_leave(ours: Stand, joining: str, leaving: str) -> tuple[Verdict, float]:
    """Three workers join while clicks flow, and two leave; the verdict, and s until all is done."""
    ours.environ[INSTANCE_ID] = ""
    flow = Flow(ours, 6_000, seed=11)
    first = ours.worker()
    flow.until(lambda: shared_out(ours, first), "the first has all")
    if joining == "one by one":
        second = ours.worker()
        flow.until(lambda: shared_out(ours, first, second), "two share")
        third = ours.worker()
    else:
        second, third = ours.worker(), ours.worker()
    flow.until(lambda: shared_out(ours, first, second, third), "three share")
    for worker in (first, third):
        if leaving == "SIGTERM":
            worker.terminate()
            worker.join(30)
            assert worker.exitcode == 0
        else:
            kill(worker)
            assert worker.exitcode == -signal.SIGKILL
    watch = Stopwatch()
    flow.finish()
    ours.wait_for_all()
    until(lambda: shared_out(ours, second), "the second has all")
    return ours.verdict(), watch.seconds()
