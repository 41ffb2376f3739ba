"""The broker dies, stands still, hangs up, forgets offsets, and the topic grows."""

from __future__ import annotations

import functools

import pytest

from nextclick.shared.embedded import Server
from nextclick.shared.runtime.settings import PREFIX
from tests.faults.conftest import MakeStand, Report, each_guarantee
from tests.faults.stand import Stopwatch, go_on, pause
from tests.faults.tampering import at_step, hang_up
from tests.integration.traffic import add_partitions, make_clicks, make_topic_anew
from tests.waiting import until

DAY_MS = 86_400_000
GROUP_ID = f"{PREFIX}WORKER__GROUP_ID"
INSTANCE_ID = f"{PREFIX}WORKER__INSTANCE_ID"


@each_guarantee("exactly_once")
def test_killed_and_restarted(
    guarantee: str, broker: Server, stand: MakeStand, report: Report
) -> None:
    """In mid-stream, with answers on their way or a transaction open."""
    ours = stand(guarantee, broker)
    ours.environ[INSTANCE_ID] = ""
    clicks = make_clicks(3000, seed=1)
    ours.send(clicks[:2000])
    worker = ours.worker()
    ours.wait_for_some(300)
    broker.kill()
    until(lambda: "WARNING" in ours.log(worker) or "ERROR" in ours.log(worker), "it says so")
    watch = Stopwatch()
    broker.restart()
    ours.send(clicks[2000:])
    ours.wait_for_all()
    assert worker.is_alive()
    report(f"broker killed and restarted, {guarantee}", ours.verdict(), watch.seconds())


@each_guarantee()
def test_paused(
    guarantee: str, long: bool, broker: Server, stand: MakeStand, report: Report
) -> None:
    ours = stand(guarantee, broker)
    ours.send(make_clicks(3000, seed=2))
    worker = ours.worker()
    ours.wait_for_some(300)
    pause(broker.process.pid)
    worker.join(10 if long else 3)  # it goes on waiting
    assert worker.is_alive()
    watch = Stopwatch()
    go_on(broker.process.pid)
    ours.wait_for_all()
    report(f"broker paused, {guarantee}", ours.verdict(), watch.seconds())


@pytest.mark.parametrize("step", ["produced", pytest.param("acknowledged", marks=pytest.mark.long)])
@each_guarantee("exactly_once")
def test_hangs_up_in_mid_batch(guarantee: str, step: str, stand: MakeStand, report: Report) -> None:
    ours = stand(guarantee)
    ours.send(make_clicks(2000, seed=3))
    port = int(ours.kafka.bootstrap_servers.rpartition(":")[2])
    cut = functools.partial(hang_up, port)
    watch = Stopwatch()
    ours.worker(prepare=functools.partial(at_step, step, 2, cut))
    ours.wait_for_all()
    verdict = ours.verdict()
    assert verdict.doubled == 0, "the producer is idempotent"
    report(f"connections cut after a batch is {step}, {guarantee}", verdict, watch.seconds())


@each_guarantee("at_least_once")
def test_offsets_lost(guarantee: str, stand: MakeStand, report: Report) -> None:
    """All of them: every click is read again, far more than a session remembers."""
    ours = stand(guarantee)
    clicks = make_clicks(2500, users=10, seed=4)
    ours.send(clicks[:2000])
    worker = ours.worker()
    ours.wait_for_all()
    worker.terminate()
    worker.join(90)
    other = f"{ours.group}-2"  # has no offsets
    ours.follow(other)
    ours.send(clicks[2000:])
    watch = Stopwatch()
    ours.worker(**{GROUP_ID: other})
    ours.wait_for_all()
    verdict = ours.verdict()
    assert 0 < verdict.doubled <= 10 * 32, "what is too long ago is not answered again"
    # Without offsets no guarantee is more than at least once.
    report(f"offsets lost under {guarantee}, at_least_once", verdict, watch.seconds())


@each_guarantee("at_least_once")
def test_the_topic_gets_another_partition(guarantee: str, stand: MakeStand, report: Report) -> None:
    ours = stand(guarantee)
    clicks = make_clicks(2000, seed=5)
    ours.send(clicks[:1000])
    worker = ours.worker()
    ours.wait_for_all()
    add_partitions(ours.kafka, 5)
    ours.reconnect_shop()
    watch = Stopwatch()
    ours.send(clicks[1000:])
    ours.wait_for_all()
    assert worker.is_alive()
    report(f"a partition more, {guarantee}", ours.verdict(), watch.seconds())


@each_guarantee("at_least_once")
def test_the_topic_is_made_anew(guarantee: str, stand: MakeStand, report: Report) -> None:
    """And becomes longer than it was: only its id tells that the old offsets mean nothing."""
    ours = stand(guarantee)
    ours.send(make_clicks(400, seed=6))
    worker = ours.worker()
    ours.wait_for_all()
    make_topic_anew(ours.kafka, ours.kafka.clicks_topic)
    until(lambda: "was made anew" in ours.log(worker), "the worker says so")
    ours.reconnect_shop()
    later = [
        click.model_copy(update={"timestamp": click.timestamp + DAY_MS})
        for click in make_clicks(2000, seed=7)
    ]
    watch = Stopwatch()
    ours.send(later)
    ours.wait_for_all()
    assert worker.is_alive()
    report(f"the topic made anew, {guarantee}", ours.verdict(), watch.seconds())
