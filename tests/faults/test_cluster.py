"""A worker on three brokers, of which some die; two of them must acknowledge."""

from __future__ import annotations

from nextclick.shared import embedded
from nextclick.shared.runtime.settings import PREFIX
from tests.faults.conftest import MakeStand, Report, each_guarantee
from tests.faults.stand import Stopwatch
from tests.integration.traffic import make_clicks
from tests.waiting import until

INSTANCE_ID = f"{PREFIX}WORKER__INSTANCE_ID"


@each_guarantee()
def test_each_broker_dies_once(
    guarantee: str, kafka_cluster: embedded.KafkaCluster, stand: MakeStand, report: Report
) -> None:
    """Among them the coordinators of the group and of the transactions, with work in hand."""
    ours = stand(guarantee, kafka_cluster)
    clicks = make_clicks(4000, seed=31)
    ours.send(clicks[:1000])
    worker = ours.worker()
    ours.wait_for_some(100)
    watch = Stopwatch()
    for number, broker in enumerate(kafka_cluster.brokers, start=1):
        broker.kill()
        ours.send(clicks[1000 * number : 1000 * (number + 1)])
        ours.wait_for_some(1000 * number)  # two brokers are enough
        kafka_cluster.repair()
    ours.wait_for_all()
    assert worker.is_alive()
    report(f"each of three brokers killed, {guarantee}", ours.verdict(), watch.seconds())


@each_guarantee("exactly_once")
def test_two_of_three_brokers_die(
    guarantee: str, kafka_cluster: embedded.KafkaCluster, stand: MakeStand, report: Report
) -> None:
    """Nothing can be acknowledged then: the worker says so, waits, and goes on."""
    ours = stand(guarantee, kafka_cluster)
    ours.environ[INSTANCE_ID] = ""
    clicks = make_clicks(3000, seed=32)
    ours.send(clicks[:2000])
    worker = ours.worker()
    ours.wait_for_some(300)
    for broker in kafka_cluster.brokers[1:]:
        broker.kill()
    until(lambda: "WARNING" in ours.log(worker) or "ERROR" in ours.log(worker), "it says so")
    watch = Stopwatch()
    kafka_cluster.repair()
    ours.send(clicks[2000:])
    ours.wait_for_all(120)
    assert worker.is_alive()
    report(f"two of three brokers killed, {guarantee}", ours.verdict(), watch.seconds())
