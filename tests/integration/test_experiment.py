"""`nextclick experiment`, and workers that serve two models, with real servers."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nextclick.services.cli import app
from nextclick.shared.kafka import TopicReader, ensure_topics
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from nextclick.shared.schemas import ExtendedRecommendation, decode_extended
from tests.conftest import Launch
from tests.integration.shells import Terminals, typed
from tests.integration.traffic import Shop, check, make_clicks, publish_model
from tests.waiting import until

PAGE = Path(__file__).parents[2] / "docs" / "ab-tests.md"


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments])


def test_start_status_and_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the bad input of each: a clear line, nothing changed."""
    monkeypatch.setenv(f"{PREFIX}REGISTRY__URL", str(tmp_path))
    b, a = (publish_model(tmp_path, seed) for seed in (1, 2))
    pointer = tmp_path / "current.json"

    def refused(line: str, *arguments: str) -> None:
        before = pointer.read_bytes()
        error = run(*arguments).exception
        assert re.search(line, str(error)), error
        assert pointer.read_bytes() == before

    start = ("experiment", "start")
    for share in ("0", "1", "0%", "100%", "20"):
        refused(f"a share of {share} is no", *start, "e", "--b", b, "--share", share)
    refused("gone is not in the registry", *start, "e", "--b", "gone", "--share", "20%")
    refused("no experiment is running", "experiment", "stop")
    refused("the arms are a and b", "experiment", "stop", "--promote", "c")
    refused("there was no experiment yet", "experiment", "report")
    done = run(*start, "newer", "--a", "current", "--b", b, "--share", "20%")
    assert f"newer: 0.2 of the users get {b}, the others {a}" in done.output
    refused("newer is running, on all users", *start, "other", "--b", b, "--share", "20%")
    for change in (("models", "promote", b), ("models", "rollback")):
        refused("workers serve the versions of the experiment newer until it ends", *change)
    (listed,) = json.loads(run("experiment", "status", "--json", "-").output)
    assert (listed["name"], listed["a"], listed["b"], listed["ended_at"]) == ("newer", a, b, None)
    assert "running" in run("experiment", "status").output
    assert f"current: {b}" in run("experiment", "stop", "--promote", "b").output
    assert "promoted b" in run("experiment", "status").output
    refused("there was an experiment newer already", *start, "newer", "--b", a, "--share", "20%")
    refused("no experiment other; there were: newer", "experiment", "report", "other")


@pytest.mark.long
@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
def test_workers_that_are_killed_serve_two_models(
    guarantee: str,
    kafka: KafkaSettings,
    launch: Launch,
    logs: Callable[[str], str],
    tmp_path: Path,
) -> None:
    ours = {f"{PREFIX}WORKER__GUARANTEE": guarantee}
    url = tmp_path / "registry"
    b, a = (publish_model(url, seed) for seed in (1, 2))
    ensure_topics(kafka, kafka.topics)
    clicks = make_clicks(3000, users=400)
    shop, seen = Shop(kafka), list[ExtendedRecommendation]()
    with closing(TopicReader(kafka, [kafka.recommendations_topic])) as reader:

        def answered(number: int) -> bool:
            seen.extend(decode_extended(m.value, m.headers) for m in reader.poll(timeout=0.2))
            return len({answer.event_id for answer in seen}) >= number

        worker = launch("worker", **ours)
        shop.send(clicks[:500])
        until(lambda: answered(500), "answers before the experiment", 60)
        assert all(answer.experiment is None for answer in seen)
        start = ("experiment", "start", "e", "--a", "current", "--b", b, "--share", "50%")
        assert launch(*start).wait(60) == 0
        until(lambda: "experiment e: 50 % of the users" in logs("worker"), "both arms", 30)
        shop.send(clicks[500:1500])
        until(lambda: answered(800), "some answers", 60)
        worker.kill()
        worker.wait()
        later = publish_model(url, seed=3)
        launch("worker", **ours)
        launch("worker", **ours)
        shop.send(clicks[1500:])
        until(lambda: answered(len(clicks)), "all answers", 90)
    check(clicks, seen, url)  # every list is recomputable from its message
    times = Counter(answer.event_id for answer in seen)
    assert len(times) == len(clicks)
    if guarantee == "exactly_once":
        assert times.total() == len(clicks)
    experiment = Registry(str(url)).pointer().running  # type: ignore[union-attr]
    assert experiment is not None
    marked = [answer for answer in seen if answer.experiment is not None]
    assert len({answer.event_id for answer in marked}) > 2000
    for answer in marked:
        assert answer.experiment is not None
        assert answer.experiment.arm == experiment.arm_of(answer.user_id)
        assert answer.model_version == experiment.version_of(answer.experiment.arm)
    assert {answer.model_version for answer in seen} == {a, b}, "what is published waits"

    assert launch("experiment", "report", "--json", str(tmp_path / "report.json")).wait(60) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["misplaced"] == 0
    assert sum(report["lists"].values()) == len({answer.event_id for answer in marked})
    of_b = {answer.user_id for answer in marked if experiment.arm_of(answer.user_id) == "b"}
    assert report["users"]["b"] == len(of_b)
    assert report["verdict"]["kind"] in ("open", "early")

    assert launch("experiment", "stop").wait(60) == 0
    until(lambda: logs("worker").count(f"serving model {later}") == 2, "all users get what waited")


@pytest.mark.long
def test_the_page(terminals: Terminals) -> None:
    """docs/ab-tests.md, command by command, after the tutorial's first two steps."""
    terminals.stay("nextclick servers", "are up")
    terminals.say("nextclick simulate --log clicks.parquet --interactions 12000")
    said: dict[str, str] = {}
    versions: list[str] = []
    for command in typed(PAGE):
        if command == "nextclick worker":
            terminals.stay(command, "assigned partitions")
            continue
        given = command.replace("--seconds 120", "--seconds 20")
        if "--b " in given:
            given = re.sub(r"--b \S+", f"--b {versions[1]}", given)
        said[command] = terminals.say(given)
        if command == "nextclick models list":
            versions = sorted({*re.findall(r"\d{8}T\d{6}-[0-9a-f]{4}", said[command])})
        if "experiment start" in command:
            log = terminals.folder / "nextclick-worker.log"
            until(lambda log=log: "50 % of the users get model" in log.read_text(), "both arms")
    told = "\n".join(said.values())
    assert re.search(rf"0.5 of the users get {versions[1]}, the others {versions[0]}", told)
    assert "HR@10 a" in told
    assert "not to be trusted" not in told
    assert (terminals.folder / "uplift.png").stat().st_size > 10_000
    assert f"current: {versions[1]}" in said["nextclick experiment stop --promote b"]
