"""Our worker and the one on Quix Streams do the same job. Skipped without quixstreams."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from nextclick.bench import round_trip
from nextclick.bench.contestants import Contestant
from nextclick.bench.peers import interpreter, report
from nextclick.bench.peers import measure as measure_module
from nextclick.bench.peers.measure import measure
from nextclick.bench.peers.passes import answer_all, compare
from nextclick.bench.round_trip import warm_servers
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.kafka import ensure_topics
from nextclick.shared.runtime.settings import KafkaSettings
from tests.integration.traffic import Shop, check, make_clicks, publish_model


@pytest.fixture(scope="module")
def quix_python() -> Path:
    try:
        return interpreter.find(None)
    except ConfigurationError as error:
        pytest.skip(str(error))


@pytest.mark.long
def test_both_give_the_same_answers(
    quix_python: Path, environ: dict[str, str], kafka: KafkaSettings, name: str, tmp_path: Path
) -> None:
    """Across pauses, unknown items and clicks that come twice."""
    publish_model(tmp_path / "registry", seed=0)
    clicks = make_clicks(600)
    sent = [*clicks, *clicks[-50:]]
    ensure_topics(kafka, [kafka.clicks_topic])
    Shop(kafka).send(sent)
    nextclick, quix = (
        answer_all(f"{who}-{name}", contestant, tmp_path, environ, kafka, len(sent)).answers
        for who, contestant in {
            "nextclick": Contestant("nextclick.bench.peers.nextclick_worker"),
            "quix": Contestant("nextclick.bench.peers.quix_worker", python=quix_python),
        }.items()
    )
    compare(nextclick, quix)
    check(clicks, nextclick, tmp_path / "registry")
    check(clicks, quix, tmp_path / "registry")


@pytest.mark.long
def test_both_are_measured(
    quix_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(round_trip, "_BROKER_WARM_UP", (100, 1.0))
    monkeypatch.setattr(round_trip, "WARM_UP_CLICKS", 500)
    monkeypatch.setattr(round_trip, "LEAD_IN_SECONDS", 0.5)
    monkeypatch.setattr(round_trip, "IDLE_SECONDS", 0.1)
    monkeypatch.setattr(measure_module, "RATES", (50.0,))
    monkeypatch.setattr(measure_module, "FLOOR_CLICKS", 1)
    with warm_servers() as servers:
        row = measure(servers, 40, 400, 1, quix_python, "cpu", seconds=2)
    assert row.peer["quixstreams"]
    assert row.ratio == pytest.approx(row.nextclick / row.quix)
    assert row.floor_ratio == pytest.approx(row.nextclick_floor / row.quix_floor)
    assert min(row.nextclick, row.quix) > 0
    assert [latency.rate for latency in row.latency] == [50]
    for latency in row.latency:
        for found in (latency.echo, latency.nextclick, latency.quix):
            assert found.clicks == 2 * latency.rate
            assert 0 < found.p50_ms <= found.p90_ms <= found.p99_ms <= found.max_ms
    console = Console(width=112, record=True, file=io.StringIO())
    report.show([row], servers, console)
    text = console.export_text()
    for words in ("Quix Streams", "echo", "Apache Kafka", row.peer["quixstreams"]):
        assert words in text
    # torch makes a folder of its own for what it compiles, once in a process, wherever that is.
    assert [p for p in tmp_path.iterdir() if not p.name.startswith("torchinductor_")] == []
