"""The benches that start processes, at a small size: that they run, answer and clean up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from nextclick.bench import collector, latency, learning, round_trip, scale, worker
from nextclick.bench.contestants import ECHO, Contestant
from nextclick.bench.latency import Floor
from nextclick.bench.round_trip import Servers, warm_servers
from nextclick.services.demo.local_servers import Processes
from nextclick.shared.errors import NextclickError
from nextclick.shared.runtime.settings import KafkaSettings
from tests.integration.traffic import Answers, Shop, make_clicks
from tests.unit.builders import CPU


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Warm, as far as a test needs it, and with shorter runs than a bench's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(round_trip, "_BROKER_WARM_UP", (100, 1.0))
        patch.setattr(round_trip, "WARM_UP_CLICKS", 300)
        patch.setattr(round_trip, "LEAD_IN_SECONDS", 0.5)
        patch.setattr(round_trip, "IDLE_SECONDS", 0.5)
        patch.setattr(latency, "LEAST_CLICKS", 10)
        patch.setattr(latency, "_TRANSACTIONS_WARM_UP", (50, 0.5))
        with warm_servers() as started:
            yield started
    assert not started.folder.exists()


@pytest.fixture(scope="module")
def floor(servers: Servers) -> Floor:
    return latency.measure_floor(servers, rate=50, seconds=2)


@pytest.mark.long
def test_latency_is_measured_beside_the_echo_across_a_retrain_and_a_swap(
    servers: Servers, floor: Floor
) -> None:
    assert floor.latency.clicks == 100
    row = latency.measure(servers, floor, seconds=6, items=40, guarantee="at_least_once", swap=True)
    assert row.latency.clicks == 300
    assert row.swaps >= 1
    assert row.duplicates == 0
    assert not row.idle_cpu > 1.5
    assert 0 < row.latency.p50_ms <= row.latency.p90_ms <= row.latency.p99_ms <= row.latency.max_ms
    assert row.p50_ratio == pytest.approx(row.latency.p50_ms / floor.latency.p50_ms)
    assert row.p99_ratio == pytest.approx(row.latency.p99_ms / floor.latency.p99_ms)


@pytest.mark.long
def test_latency_is_measured_with_transactions(servers: Servers, floor: Floor) -> None:
    latency.warm_transactions(servers)
    row = latency.measure(servers, floor, seconds=1, items=40, guarantee="exactly_once", swap=False)
    assert (row.latency.clicks, row.swaps, row.duplicates) == (50, 0, 0)


@pytest.mark.long
def test_latency_is_measured_beside_lists_under_profiles(servers: Servers, floor: Floor) -> None:
    row = latency.measure(
        servers, floor, 1, items=40, guarantee="at_least_once", swap=False, profiles=3
    )
    assert (row.latency.clicks, row.profiles, row.duplicates) == (50, 3, 0)
    name = "at-least-once-50-40-alone-3"
    for number in range(3):
        topic = {"recommendations_topic": f"{name}-profile-{number}"}
        lists = Answers(servers.kafka(name).model_copy(update=topic))
        try:
            assert len(lists.read()) >= row.latency.clicks
        finally:
            lists.close()


@pytest.mark.long
def test_latency_is_measured_with_a_second_model(servers: Servers, floor: Floor) -> None:
    """A run in which it answers no click is no figure."""
    row = latency.measure(
        servers, floor, 1, items=40, guarantee="at_least_once", swap=False, experiment=True
    )
    assert (row.latency.clicks, row.models, row.swaps, row.duplicates) == (50, 2, 0, 0)


@pytest.mark.long
def test_latency_is_measured_with_deltas(servers: Servers, floor: Floor) -> None:
    row = latency.measure(
        servers, floor, 4, items=40, guarantee="at_least_once", swap=False, deltas=True
    )
    assert (row.latency.clicks, row.swaps, row.duplicates) == (200, 0, 0)
    assert 1 <= row.deltas <= 4


@pytest.mark.long
def test_a_process_that_dies_is_no_figure(servers: Servers) -> None:
    with pytest.raises(NextclickError, match=r"broken.* died"):
        round_trip.round_trip("broken", Contestant("bench.no_such_module"), servers, 10, 1)


def test_the_echo_answers_each_click_once_with_a_message_of_a_real_size(
    environ: dict[str, str], kafka: KafkaSettings, answers: Answers, tmp_path: Path
) -> None:
    clicks = make_clicks(300)
    processes = Processes(tmp_path, environ)
    try:
        ECHO.start("echo", processes)
        Shop(kafka).send(clicks)
        answers.wait_for({click.event_id for click in clicks})
        processes.stop("echo")
    finally:
        processes.kill_all()
    echoed = answers.read()
    assert Counter(a.event_id for a in echoed) == Counter(c.event_id for c in clicks)
    sent = {click.event_id: click for click in clicks}
    for answer in echoed:
        click = sent[answer.event_id]
        assert answer.user_id == click.user_id
        assert answer.click_timestamp == click.timestamp
        assert answer.history[-1] == click.item_id


@pytest.mark.long
def test_a_worker_is_measured_step_by_step(servers: Servers) -> None:
    row = worker.measure(servers, items=40, clicks=2000, rounds=1, device=CPU)
    assert set(row.stage_us) == set(worker.STAGES)
    assert min(row.stage_us.values()) > 0
    assert row.clicks_per_second > 0
    assert sum(row.stage_us.values()) < 1.5e6 / row.clicks_per_second
    assert row.queue_us > 0
    assert row.share_of_possible > 0


@pytest.mark.long
def test_a_collector_is_measured_beside_plain_consuming(servers: Servers) -> None:
    row = collector.measure(servers, clicks=3000, rounds=1)
    assert row.files >= 1
    assert row.ratio > 0
    assert 0 < row.cpu_ratio < 1
    assert row.plain.per_cpu_second > row.collector.per_cpu_second > 0


@pytest.mark.long
def test_learning_between_retrainings_is_measured(servers: Servers) -> None:
    base = learning.base_of_shop(clicks=10_000, epochs=3, seed=0)
    found = learning.measure(base, base_clicks=10_000, seed=0)
    of_shock = {row.clicks: row for row in found.recovery if row.shop == "shock"}
    assert of_shock[2000].hr_at_10 > 0.9 > of_shock[2000].base_hr_at_10
    few = next(row for row in found.recovery if row.shop == "no change")
    assert few.ece == pytest.approx(few.base_ece, abs=few.ece_noise)
    assert 0 < of_shock[2000].ece_noise < of_shock[2000].ece < 1
    assert len(found.attacks) == 4
    assert max(attack.honest - attack.attacked for attack in found.attacks) < 0.01
    assert found.cost.delta_us > 0
    (delay,) = learning.measure_delay(servers, base, probes=1)
    assert 0 < delay < learning.LONGEST_SECONDS


@pytest.mark.long
def test_growth_is_measured_and_drawn(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(scale, "_ITEMS", 40)
    few, more = scale.measure_users(300), scale.measure_users(300, clicks_per_user=20)
    assert 100 < few.bytes_per_session < more.bytes_per_session < 2000
    assert few.appends_per_second > 0
    two = scale.measure_workers(servers, 2, clicks=2000)
    assert two.clicks_per_second > 0
    assert list(tmp_path.iterdir()) == []
    scale.plot([few], [two], tmp_path / "scale.png")
    assert (tmp_path / "scale.png").stat().st_size > 1000
