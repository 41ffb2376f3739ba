"""Everything runs for a long time on three brokers, and breaks again and again: `make soak`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

import pytest

from nextclick.shared import embedded
from nextclick.trainer.collect import EventLog
from tests.faults.conftest import GUARANTEES, MakeStand, Report
from tests.faults.soak import Service, Soak
from tests.faults.stand import Stopwatch
from tests.waiting import until

GROWTH_MB = 40.0
"""After the first two minutes; an outage leaves librdkafka with more buffers."""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.long
def test_soak(
    soak_minutes: float,
    soak_seed: int,
    kafka_cluster: embedded.KafkaCluster,
    stand: MakeStand,
    report: Report,
) -> None:
    """Nothing is lost, nor wrong by a model or a delta; memory is flat; health and lag are true."""
    guarantee = GUARANTEES[soak_seed % 2]
    ours = stand(guarantee, kafka_cluster)
    soak = Soak(ours, kafka_cluster, soak_seed)
    log = EventLog(str(ours.folder / "event_log"))
    try:
        soak.run(60 * soak_minutes)
        watch = Stopwatch()
        ours.wait_for_all(120)
        seconds = watch.seconds()
        until(lambda: log.count() >= ours.sent, "the trainer has logged every click", 60)
        soak.learn()
        ours.wait_for_all(120)
        until(lambda: log.count() >= ours.sent, "the trainer has logged every click", 60)
        verdict = ours.verdict()
        by_deltas = [answer for answer in ours.answers() if "+" in answer.model_version]
    finally:
        soak.close()
        print("\n".join([*soak.history, *soak.trouble]))
        print(soak.judged)
    logged = Counter(log.read()["event_id"])
    what = f"soak of {soak_minutes:g} minutes, seed {soak_seed}, {guarantee}"
    report(what, verdict, seconds)
    assert not soak.trouble, "\n".join(soak.trouble)
    assert not soak.refused_models()
    assert len({answer.model_version for answer in by_deltas}) > soak_minutes
    assert set(logged.values()) == {1}
    assert len(logged) == ours.sent
    for service in soak.services:
        assert_flat(service)


def assert_flat(service: Service) -> None:
    """Compare the middle with the end of what was measured: at first caches fill."""
    measured: Sequence[tuple[float, int]] = service.memory
    if len(measured) < 120:
        return
    (memory, files), (memory_at_end, files_at_end) = measured[len(measured) // 2], measured[-1]
    assert memory_at_end - memory < GROWTH_MB, service.name
    assert files_at_end <= files + 10, service.name
