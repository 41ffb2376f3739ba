"""Our worker and its Quix Streams twin do the same job. Skipped where quixstreams is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.peers import interpreter
from bench.peers.measure import measure
from bench.peers.passes import Contestant, answer_all, compare
from shared.errors import ConfigurationError
from shared.settings import KafkaSettings
from tests.integration.traffic import Shop, check, make_clicks, publish_model


@pytest.fixture(scope="module")
def quix_python() -> Path:
    try:
        return interpreter.find(None)
    except ConfigurationError as error:
        pytest.skip(str(error))


def test_both_give_the_same_answers(
    quix_python: Path, environ: dict[str, str], kafka: KafkaSettings, name: str, tmp_path: Path
) -> None:
    """Across pauses, unknown items and clicks that come twice."""
    publish_model(tmp_path / "registry", seed=0)
    clicks = make_clicks(600)
    sent = [*clicks, *clicks[-50:]]
    Shop(kafka).send(sent)
    ours, theirs = (
        answer_all(f"{who}-{name}", contestant, tmp_path, environ, kafka, len(sent)).answers
        for who, contestant in {
            "ours": Contestant("bench.peers.our_worker"),
            "theirs": Contestant("bench.peers.quix_worker", quix_python),
        }.items()
    )
    compare(ours, theirs)
    check(clicks, ours, tmp_path / "registry")
    check(clicks, theirs, tmp_path / "registry")


def test_both_are_measured(
    quix_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    row = measure(items=40, clicks=1000, rounds=1, python=quix_python, device="cpu")
    assert row.peer["quixstreams"]
    assert row.ratio == pytest.approx(row.ours / row.theirs)
    assert row.floor_ratio == pytest.approx(row.our_floor / row.their_floor)
    assert min(row.ours, row.theirs) > 0
    assert list(tmp_path.iterdir()) == []
