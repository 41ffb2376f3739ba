"""The network between a worker and its servers is bad: it swallows, delays, throttles, cuts.

The worker reaches Kafka or Redis through a proxy, the shop and the test do not.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from nextclick.shared.embedded import Server, free_port, start_kafka
from nextclick.shared.runtime.settings import PREFIX
from nextclick.shared.schemas import Click
from tests.faults.conftest import MakeStand, Report, each_guarantee
from tests.faults.proxy import Proxy
from tests.faults.stand import Stand, Stopwatch
from tests.integration.traffic import make_clicks
from tests.waiting import until

pytestmark = pytest.mark.long

KAFKA = f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS"
REDIS = f"{PREFIX}REDIS__URL"
INSTANCE_ID = f"{PREFIX}WORKER__INSTANCE_ID"
SWALLOWED_SECONDS = 15.0
"""More than a session (10 s) and than a request of ours (10 s)."""
LATE_SECONDS = 70.0
"""More than any time-out: of a request (60 s), a transaction (30 s), a session (10 s)."""


@dataclass(frozen=True)
class Network:
    """A broker, and the proxy through which it says it is reached."""

    broker: Server
    proxy: Proxy


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    port, behind = free_port(), free_port()
    proxy = Proxy(behind)
    broker = start_kafka(
        tmp_path,
        port,
        listeners={"PROXIED": behind},
        properties={
            "listener.security.protocol.map": (
                "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT"
            ),
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port},PROXIED://{proxy.address}",
        },
    )
    yield Network(broker, proxy)
    broker.kill()
    proxy.close()


each_name = pytest.mark.parametrize("name", ["w", ""], ids=["named", "unnamed"])


def trickle(ours: Stand, clicks: Sequence[Click], seconds: float) -> None:
    """Send clicks evenly over a time, as a shop does."""
    watch, pace, sent = Stopwatch(), threading.Event(), 0
    while sent < len(clicks):
        due = min(len(clicks), int(len(clicks) * watch.seconds() / seconds))
        ours.send(clicks[sent:due])
        sent = due
        pace.wait(0.1)


def others(count: int, seed: int) -> list[Click]:
    """Clicks of users whom no other seed has."""
    return [
        click.model_copy(update={"user_id": f"{click.user_id}-{seed}"})
        for click in make_clicks(count, seed=seed)
    ]


@each_name
@each_guarantee()
def test_kafkas_answers_are_swallowed(
    guarantee: str, name: str, network: Network, stand: MakeStand, report: Report
) -> None:
    ours = stand(guarantee, network.broker)
    ours.environ |= {INSTANCE_ID: name, KAFKA: network.proxy.address}
    ours.send(make_clicks(2000, seed=51))
    worker = ours.worker()
    ours.wait_for_some(300)
    network.proxy.swallow_answers()
    trickle(ours, others(300, seed=52), SWALLOWED_SECONDS)
    network.proxy.pass_answers()
    watch = Stopwatch()
    ours.wait_for_all(90)
    seconds = watch.seconds()
    assert worker.is_alive()
    what = f"Kafka's answers swallowed for {SWALLOWED_SECONDS:.0f} s"
    report(f"{what}{', named worker' if name else ''}, {guarantee}", ours.verdict(), seconds)


@each_name
@each_guarantee()
def test_requests_to_kafka_are_late(
    guarantee: str, name: str, network: Network, stand: MakeStand, report: Report
) -> None:
    """Those of five seconds; what is sent on new connections overtakes them."""
    ours = stand(guarantee, network.broker)
    ours.environ |= {INSTANCE_ID: name, KAFKA: network.proxy.address}
    ours.send(make_clicks(2000, seed=53))
    worker = ours.worker()
    ours.wait_for_some(300)
    network.proxy.request_delay = LATE_SECONDS
    trickle(ours, others(100, seed=54), 5.0)
    network.proxy.request_delay = 0.0
    watch = Stopwatch()
    trickle(ours, others(400, seed=55), LATE_SECONDS + 5.0)
    ours.wait_for_all(90)
    seconds = watch.seconds()
    assert worker.is_alive()
    what = f"requests to Kafka {LATE_SECONDS:.0f} s late"
    report(f"{what}{', named worker' if name else ''}, {guarantee}", ours.verdict(), seconds)


@each_guarantee()
def test_the_way_to_kafka_is_narrow(
    guarantee: str, network: Network, stand: MakeStand, report: Report
) -> None:
    """Half of what it was, again and again, while clicks come."""
    ours = stand(guarantee, network.broker)
    ours.environ |= {INSTANCE_ID: "", KAFKA: network.proxy.address}
    worker = ours.worker()
    ours.send(make_clicks(500, seed=56))
    ours.wait_for_all()
    network.proxy.bytes_per_second = 400_000.0
    trickle(ours, others(2000, seed=57), 10.0)
    while network.proxy.bytes_per_second > 20_000.0:
        network.proxy.bytes_per_second /= 2
        trickle(ours, others(100, seed=int(network.proxy.bytes_per_second)), 2.0)
    ours.send(others(500, seed=60))
    watch = Stopwatch()
    ours.wait_for_all(120)
    seconds = watch.seconds()
    assert worker.is_alive()
    report(f"the way to Kafka narrowed to 12.5 kB/s, {guarantee}", ours.verdict(), seconds)


@each_guarantee()
def test_connections_to_kafka_are_cut(
    guarantee: str, network: Network, stand: MakeStand, report: Report
) -> None:
    """With requests on their way, of which half arrive: nobody knows which."""
    ours = stand(guarantee, network.broker)
    ours.environ |= {INSTANCE_ID: "", KAFKA: network.proxy.address}
    ours.send(make_clicks(2000, seed=58))
    worker = ours.worker()
    ours.wait_for_some(300)
    network.proxy.cut_share = 0.05
    trickle(ours, others(1000, seed=59), 30.0)
    network.proxy.cut_share = 0.0
    watch = Stopwatch()
    ours.wait_for_all(90)
    seconds = watch.seconds()
    assert worker.is_alive()
    assert network.proxy.cuts > 20
    what = f"connections to Kafka cut {network.proxy.cuts} times"
    report(f"{what}, {guarantee}", ours.verdict(), seconds)


@pytest.fixture
def to_redis() -> Iterator[list[Proxy]]:
    """Proxies that a test makes, once its Redis is there."""
    made: list[Proxy] = []
    yield made
    for proxy in made:
        proxy.close()


def reach_redis_by_proxy(ours: Stand, to_redis: list[Proxy]) -> Proxy:
    proxy = Proxy(ours.redis.port)
    to_redis.append(proxy)
    ours.environ[REDIS] = f"redis://{proxy.address}/0"
    return proxy


@each_guarantee()
def test_redis_s_answers_are_swallowed(
    guarantee: str, stand: MakeStand, to_redis: list[Proxy], report: Report
) -> None:
    """The clicks are appended, and the worker does not know."""
    ours = stand(guarantee)
    proxy = reach_redis_by_proxy(ours, to_redis)
    ours.send(make_clicks(2000, seed=61))
    worker = ours.worker()
    ours.wait_for_some(300)
    proxy.swallow_answers()
    ours.send(make_clicks(2000, users=10, seed=62))
    until(lambda: "waiting: Redis" in ours.log(worker), "the worker says what it waits for")
    proxy.pass_answers()
    watch = Stopwatch()
    ours.wait_for_all()
    verdict = ours.verdict()
    assert verdict.doubled == 0
    report(f"Redis's answers swallowed, {guarantee}", verdict, watch.seconds())


@each_guarantee()
def test_requests_to_redis_are_late(
    guarantee: str, stand: MakeStand, to_redis: list[Proxy], report: Report
) -> None:
    """Each append runs once more, 70 s later, when its user has clicked far more than is kept."""
    ours = stand(guarantee)
    proxy = reach_redis_by_proxy(ours, to_redis)
    clicks = make_clicks(4000, users=10, seed=63)
    ours.send(clicks[:1000])
    worker = ours.worker()
    ours.wait_for_some(300)
    proxy.request_delay = LATE_SECONDS
    until(lambda: "waiting: Redis" in ours.log(worker), "the worker says what it waits for")
    proxy.request_delay = 0.0
    watch = Stopwatch()
    trickle(ours, clicks[1000:], LATE_SECONDS + 5.0)  # the late ones arrive amid others
    ours.wait_for_all()
    verdict = ours.verdict()
    assert verdict.doubled == 0
    report(f"requests to Redis {LATE_SECONDS:.0f} s late, {guarantee}", verdict, watch.seconds())
