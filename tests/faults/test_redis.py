"""Redis goes away, stands still, refuses to write, forgets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis

from tests.faults.conftest import MakeStand, Report, each_guarantee
from tests.faults.stand import Stand, Stopwatch, go_on, pause
from tests.integration.traffic import make_clicks
from tests.waiting import until


@contextmanager
def connected(ours: Stand) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(f"redis://{ours.redis.address}/0")
    yield client
    client.close()


@each_guarantee("at_least_once")
def test_killed_and_restarted(guarantee: str, stand: MakeStand, report: Report) -> None:
    ours = stand(guarantee)
    ours.send(make_clicks(3000, seed=1))
    worker = ours.worker()
    ours.wait_for_some(300)
    ours.redis.kill()
    until(lambda: "waiting: Redis" in ours.log(worker), "the worker says what it waits for")
    assert ours.committed() < 3000
    watch = Stopwatch()
    ours.redis.restart()
    ours.wait_for_all()
    report(f"Redis killed and restarted, {guarantee}", ours.verdict(), watch.seconds())


@pytest.mark.long
def test_paused(stand: MakeStand, report: Report) -> None:
    """Longer than the worker's patience with one request: it does not know what was applied."""
    ours = stand()
    ours.send(make_clicks(3000, seed=2))
    worker = ours.worker()
    ours.wait_for_some(300)
    pause(ours.redis.process.pid)
    until(lambda: "waiting: Redis" in ours.log(worker), "the worker says what it waits for")
    watch = Stopwatch()
    go_on(ours.redis.process.pid)
    ours.wait_for_all()
    verdict = ours.verdict()
    assert verdict.doubled == 0
    report("Redis paused, at_least_once", verdict, watch.seconds())


REFUSALS: dict[str, Callable[[redis.Redis, bool], object]] = {
    "out of memory": lambda client, refuse: client.config_set("maxmemory", "1" if refuse else "0"),
    "read-only": lambda client, refuse: (
        client.replicaof("127.0.0.1", "1") if refuse else client.replicaof("NO", "ONE")
    ),
    "without enough replicas": lambda client, refuse: client.config_set(
        "min-replicas-to-write", "1" if refuse else "0"
    ),
}


@pytest.mark.parametrize(
    "what",
    [
        "out of memory",
        pytest.param("read-only", marks=pytest.mark.long),
        pytest.param("without enough replicas", marks=pytest.mark.long),
    ],
)
def test_it_refuses_to_write(what: str, stand: MakeStand, report: Report) -> None:
    ours = stand()
    first, second = make_clicks(500, seed=3), make_clicks(500, seed=4)
    ours.send(first)
    worker = ours.worker()
    ours.wait_for_all()
    with connected(ours) as client:
        REFUSALS[what](client, True)
        ours.send(second)
        until(lambda: "waiting: Redis" in ours.log(worker), "the worker says what it waits for")
        watch = Stopwatch()
        REFUSALS[what](client, False)
    ours.wait_for_all()
    assert worker.is_alive()
    verdict = ours.verdict()
    assert verdict.doubled == 0
    report(f"Redis {what}, at_least_once", verdict, watch.seconds())


def test_emptied_and_rebuilt(stand: MakeStand, report: Report) -> None:
    ours = stand()
    clicks = make_clicks(2000, seed=5)
    ours.send(clicks[:1500])
    worker = ours.worker()
    ours.wait_for_all()
    worker.terminate()
    worker.join(90)
    with connected(ours) as client:
        client.flushall()
    watch = Stopwatch()
    rebuild = ours.start("sessions", "rebuild")
    rebuild.join(90)
    assert rebuild.exitcode == 0
    assert "1,500 clicks are in their users' sessions" in ours.log(rebuild)
    ours.send(clicks[1500:])
    ours.worker()
    ours.wait_for_all()
    report("Redis emptied, rebuilt, at_least_once", ours.verdict(), watch.seconds())


@pytest.mark.long
def test_rebuilding_what_is_there_changes_nothing(stand: MakeStand, report: Report) -> None:
    ours = stand()
    clicks = make_clicks(2000, users=8, seed=6)
    ours.send(clicks[:1500])
    ours.worker()
    ours.wait_for_all()
    watch = Stopwatch()
    rebuild = ours.start("sessions", "rebuild")
    rebuild.join(90)
    assert "lie behind newer clicks" in ours.log(rebuild)
    ours.send(clicks[1500:])
    ours.wait_for_all()
    report("rebuilt beside a worker, at_least_once", ours.verdict(), watch.seconds())
