"""More clicks than the worker can answer."""

from __future__ import annotations

import sys

import pytest

from tests.faults.conftest import MakeStand, Report
from tests.faults.stand import Stopwatch, memory_mb
from tests.integration.traffic import make_clicks

GROWTH_MB = 160.0
"""What a worker may take beyond what it has after its first answers. librdkafka reads ahead, up to
64 MiB of messages (queued.max.messages.kbytes) and what it keeps with each."""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_overload_is_worked_off(long: bool, stand: MakeStand, report: Report) -> None:
    """Everything comes at once: the lag grows and drains, memory does not grow with it."""
    ours = stand()
    count = 200_000 if long else 20_000
    clicks = make_clicks(count, users=2000, seed=1)
    worker = ours.worker()
    ours.send(clicks[:1000])
    ours.wait_for_all()
    before = most = memory_mb(worker.pid)
    watch = Stopwatch()
    ours.send(clicks[1000:])
    backlog = ours.sent - ours.committed()
    while ours.committed() < ours.sent:
        most = max(most, memory_mb(worker.pid))
    seconds = watch.seconds()
    assert backlog > 100, "it was no overload"
    assert most - before < GROWTH_MB
    verdict = ours.verdict()
    assert verdict.doubled == 0
    what = f"{backlog:,} clicks behind, {most - before:.0f} MB more, at_least_once"
    report(what, verdict, seconds)
