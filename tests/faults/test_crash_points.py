"""A worker dies between any two steps; docs/guarantees.md says what it leaves behind."""

from __future__ import annotations

from itertools import product

import pytest
import redis

from nextclick.services.worker.loop import STEPS
from tests.faults.conftest import GUARANTEES, MakeStand, Report
from tests.faults.stand import Stand, Stopwatch
from tests.faults.tampering import crash_at
from tests.integration.traffic import make_clicks


def times_reached(step: str, guarantee: str) -> int:
    """At which time that it reaches the step it dies: as late as every run of the test gets to."""
    if guarantee == "exactly_once":
        return 2  # what is scored while the first transaction is open shares the second
    return 1 if step == "committed" else 4  # one commit may be enough for everything


SHORT = {("produced", "exactly_once"), ("acknowledged", "at_least_once")}
CASES = [
    pytest.param(*case, marks=() if case in SHORT else pytest.mark.long)
    for case in product(STEPS, GUARANTEES)
]


@pytest.mark.parametrize(("step", "guarantee"), CASES)
def test_a_crash_after_any_step(
    step: str, guarantee: str, stand: MakeStand, report: Report
) -> None:
    ours = stand(guarantee)
    ours.send(make_clicks(600))
    dying = ours.worker(prepare=crash_at(step, times_reached(step, guarantee)))
    dying.join(90)
    assert dying.exitcode == -9

    committed, appended = ours.committed(), _appended(ours)
    visible = len({answer.event_id for answer in ours.answers()})
    assert committed <= visible <= appended, "7 never runs ahead of 6, nor 5 of 3"
    if guarantee == "exactly_once":
        assert committed == visible
    if step in ("appended", "scored"):
        assert visible < appended
    elif step == "acknowledged" and guarantee == "at_least_once":
        assert visible > 0
    elif step == "committed":
        assert committed > 0

    watch = Stopwatch()
    ours.worker()
    ours.wait_for_all()
    report(f"worker dies after it has {step}, {guarantee}", ours.verdict(), watch.seconds())


def _appended(ours: Stand) -> int:
    """Clicks in Redis, as far as it remembers."""
    client = redis.Redis.from_url(f"redis://{ours.redis.address}/0")
    try:
        return sum(client.llen(key) - 1 for key in client.scan_iter())
    finally:
        client.close()
