"""Workers die, stall, come and go."""

from __future__ import annotations

import numpy as np
import pytest

from nextclick.shared.runtime.settings import PREFIX
from tests.faults.conftest import MakeStand, Report, each_guarantee
from tests.faults.stand import Stopwatch, go_on, kill, pause
from tests.faults.tampering import crash_at, stop_at
from tests.integration.traffic import make_clicks
from tests.waiting import until

INSTANCE_ID = f"{PREFIX}WORKER__INSTANCE_ID"


@each_guarantee("exactly_once")
def test_killed_at_random_again_and_again(
    guarantee: str, clicks_in_all: int, long: bool, stand: MakeStand, report: Report
) -> None:
    ours = stand(guarantee)
    ours.send(make_clicks(clicks_in_all, seed=1))
    kills = 20 if long else 3
    at = np.sort(np.random.default_rng(1).integers(1, clicks_in_all * 9 // 10, kills))
    for count in at.tolist():
        worker = ours.worker()
        ours.wait_for_some(count)
        kill(worker)
    assert ours.committed() < clicks_in_all, "the last was killed too late to matter"
    watch = Stopwatch()
    ours.worker()
    ours.wait_for_all(120)
    report(f"worker killed {kills} times, {guarantee}", ours.verdict(), watch.seconds())


@each_guarantee("at_least_once")
def test_sigterm(guarantee: str, stand: MakeStand, report: Report) -> None:
    ours = stand(guarantee)
    ours.send(make_clicks(3000, seed=2))
    worker = ours.worker()
    ours.wait_for_some(100)
    worker.terminate()
    worker.join(90)
    assert worker.exitcode == 0
    assert ours.verdict().doubled == 0
    watch = Stopwatch()
    ours.worker()
    ours.wait_for_all()
    verdict = ours.verdict()
    assert verdict.doubled == 0
    report(f"SIGTERM, {guarantee}", verdict, watch.seconds())


@each_guarantee("exactly_once")
def test_two_workers_one_joins_and_one_leaves_meanwhile(
    guarantee: str, stand: MakeStand, report: Report
) -> None:
    ours = stand(guarantee)
    clicks = make_clicks(4000, seed=3)
    ours.environ[INSTANCE_ID] = ""  # who has a name is waited for when it leaves
    first = ours.worker()
    ours.wait_for_partitions(first)
    ours.send(clicks[:1000])
    second = ours.worker()
    for start in range(1000, 3000, 100):
        ours.send(clicks[start : start + 100])
    ours.wait_for_partitions(second)
    first.terminate()
    ours.send(clicks[3000:])
    first.join(90)
    assert first.exitcode == 0
    watch = Stopwatch()
    ours.wait_for_all()
    report(f"one worker joins, one leaves, {guarantee}", ours.verdict(), watch.seconds())


@pytest.mark.parametrize(
    "step",
    [
        pytest.param("polled", marks=pytest.mark.long),
        pytest.param("appended", marks=pytest.mark.long),
        "acknowledged",
    ],
)
@each_guarantee("exactly_once")
def test_a_worker_that_was_thought_dead_wakes_up(
    guarantee: str, step: str, stand: MakeStand, report: Report
) -> None:
    """It stands still in mid-batch, its heir answers everything, and then it goes on."""
    ours = stand(guarantee)
    ours.send(make_clicks(3000, users=10, seed=4))
    sleeper = ours.worker(prepare=stop_at(step, 4))
    until(lambda: _is_stopped(sleeper.pid), "it stands still")
    heir = ours.worker()
    ours.wait_for_all()
    watch = Stopwatch()
    go_on(sleeper.pid)
    if guarantee == "exactly_once":
        sleeper.join(90)
        assert sleeper.exitcode == 2
        assert "in our name" in ours.log(sleeper)
    assert heir.is_alive()
    ours.send(make_clicks(300, users=10, seed=5))
    ours.wait_for_all()
    report(
        f"stalled after it has {step}, wakes up late, {guarantee}", ours.verdict(), watch.seconds()
    )


def _is_stopped(pid: int | None) -> bool:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


@each_guarantee()
def test_one_hot_user_among_many(guarantee: str, stand: MakeStand, report: Report) -> None:
    """Far more of its clicks lie in one batch than a session remembers."""
    ours = stand(guarantee)
    hot, others = make_clicks(3000, users=1, seed=6), make_clicks(300, users=300, seed=7)
    mixed = [
        click
        for i, click in enumerate(hot)
        for click in ((click, others[i // 10]) if i % 10 == 0 else (click,))
    ]
    ours.send(
        [c.model_copy(update={"timestamp": hot[0].timestamp + i}) for i, c in enumerate(mixed)]
    )
    dying = ours.worker(prepare=crash_at("produced", 20))
    dying.join(60)
    watch = Stopwatch()
    ours.worker()
    ours.wait_for_all()
    report(f"killed while one user clicks, {guarantee}", ours.verdict(), watch.seconds())


@pytest.mark.long
def test_paused_for_a_while(stand: MakeStand, report: Report) -> None:
    ours = stand()
    ours.send(make_clicks(2000, seed=8))
    worker = ours.worker()
    ours.wait_for_some(100)
    pause(worker.pid)
    ours.send(make_clicks(500, seed=9))
    go_on(worker.pid)
    watch = Stopwatch()
    ours.wait_for_all()
    verdict = ours.verdict()
    assert verdict.doubled == 0
    report("worker paused and resumed, at_least_once", verdict, watch.seconds())
