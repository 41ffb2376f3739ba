"""What a person gets who types: help, one clear line for a mistake, exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nextclick.shared.embedded import free_port
from nextclick.shared.kafka import Publisher, ensure_topics, topics
from nextclick.shared.messages import OutMessage
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from nextclick.shared.schemas import Recommendation
from nextclick.trainer.collect import EventLog, Row
from tests.integration.terminal import nextclick, refused
from tests.integration.traffic import publish_model


@pytest.mark.parametrize(
    "command",
    [
        ["demo"],
        ["simulate"],
        ["worker"],
        ["trainer"],
        ["related"],
        ["evaluate"],
        ["explain"],
        ["settings"],
        ["doctor"],
        ["topics", "create"],
        ["models", "list"],
        ["models", "show"],
        ["models", "promote"],
        ["models", "rollback"],
        ["models", "prune"],
        ["events", "compact"],
        ["items", "load"],
        ["items", "retire"],
        ["items", "restore"],
        ["items", "list"],
        ["dlq", "list"],
        ["dlq", "show"],
        ["dlq", "redrive"],
    ],
)
def test_every_command_shows_an_example(environ: dict[str, str], command: list[str]) -> None:
    result = nextclick(environ, *command, "--help")
    assert result.returncode == 0
    assert f"nextclick {' '.join(command)}" in result.stdout


def test_it_is_a_program(environ: dict[str, str]) -> None:
    """The other tests fork a process that has imported everything: this one is started anew."""
    started = subprocess.run(
        [sys.executable, "-m", "nextclick", "topics", "create"],
        env={**environ, f"{PREFIX}KAFKA__PARTITIONS": "none"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "NEXTCLICK_KAFKA__PARTITIONS = 'none'" in refused(started)
    assert started.stdout == ""


def test_the_version(environ: dict[str, str]) -> None:
    assert nextclick(environ, "--version").stdout == f"nextclick {metadata.version('nextclick')}\n"


def test_an_unknown_setting_is_refused_by_name(environ: dict[str, str]) -> None:
    line = refused(nextclick(environ, "worker", **{f"{PREFIX}WORKER__TOPK": "5"}))
    assert "NEXTCLICK_WORKER__TOPK" in line
    assert "docs/configuration.md" in line


def test_a_wrong_value_is_refused_by_name(environ: dict[str, str]) -> None:
    line = refused(nextclick(environ, "worker", **{f"{PREFIX}WORKER__TOP_K": "many"}))
    assert "NEXTCLICK_WORKER__TOP_K = 'many'" in line
    line = refused(nextclick(environ, "worker", **{f"{PREFIX}KAFKA__CLIENT_CONFIG": "{"}))
    assert "JSON" in line


def test_an_unknown_device_is_refused(environ: dict[str, str]) -> None:
    line = refused(nextclick(environ, "worker", **{f"{PREFIX}DEVICE": "cuda:7"}))
    assert "NEXTCLICK_DEVICE = 'cuda:7'" in line


def test_an_unreachable_redis_is_named(environ: dict[str, str]) -> None:
    url = "redis://127.0.0.1:1/0"
    line = refused(nextclick(environ, "worker", **{f"{PREFIX}REDIS__URL": url}))
    assert "NEXTCLICK_REDIS__URL" in line


def wait_a_second_for_kafka() -> None:
    topics.REQUEST_SECONDS = 1.0  # type: ignore[attr-defined]


def test_an_unreachable_kafka_is_named(environ: dict[str, str]) -> None:
    nowhere = {f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    line = refused(
        nextclick(environ, "topics", "create", prepare=wait_a_second_for_kafka, **nowhere)
    )
    assert "NEXTCLICK_KAFKA__BOOTSTRAP_SERVERS" in line


def test_an_option_that_librdkafka_does_not_know_is_named(environ: dict[str, str]) -> None:
    wrong = {f"{PREFIX}KAFKA__CLIENT_CONFIG": '{"no.such.option": 1}'}
    line = refused(nextclick(environ, "topics", "create", **wrong))
    assert "NEXTCLICK_KAFKA__CLIENT_CONFIG" in line
    assert "no.such.option" in line


def test_an_unwritable_registry_or_event_log_is_named(
    environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    below = str(tmp_path / "file" / "below")
    line = refused(nextclick(environ, "trainer", **{f"{PREFIX}REGISTRY__URL": below}))
    assert "NEXTCLICK_REGISTRY__URL" in line
    line = refused(nextclick(environ, "trainer", **{f"{PREFIX}TRAINER__EVENT_LOG": below}))
    assert "NEXTCLICK_TRAINER__EVENT_LOG" in line


def test_an_unknown_preset_lists_the_known(environ: dict[str, str]) -> None:
    line = refused(nextclick(environ, "trainer", **{f"{PREFIX}TRAINER__PRESET": "best"}))
    assert "default" in line
    assert "source" in line
    line = refused(nextclick(environ, "trainer", **{f"{PREFIX}TRAINER__PRESET": "source_table"}))
    assert "NEXTCLICK_TRAINER__PRESET" in line


def test_topics_are_created_once_and_then_left(
    environ: dict[str, str], kafka: KafkaSettings
) -> None:
    first = nextclick(environ, "topics", "create")
    assert first.stdout.count("created") == 5, first
    again = nextclick(environ, "topics", "create")
    assert again.stdout.count("left as it is") == 5, again
    assert kafka.clicks_topic in again.stdout


def levels(result: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What `nextclick doctor` looked at → what it found."""
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines()]
    return {rest.partition(": ")[0]: level for level, rest in lines}


def test_the_doctor_finds_all_well(
    environ: dict[str, str], kafka: KafkaSettings, tmp_path: Path
) -> None:
    nextclick(environ, "topics", "create")
    publish_model(tmp_path / "registry", seed=1)
    result = nextclick(environ, "doctor", "--json", str(tmp_path / "found.json"))
    assert result.returncode == 0, result
    topics = kafka.topics
    others = ("Kafka", "workers", "trainer", "Redis", "model", "event log", "device", "API")
    assert levels(result) == dict.fromkeys((*others, *(f"topic {name}" for name in topics)), "ok")
    written = json.loads((tmp_path / "found.json").read_text())
    assert {finding["what"]: finding["level"] for finding in written} == levels(result)
    assert result.stderr == ""


def test_the_doctor_names_what_is_missing(environ: dict[str, str], kafka: KafkaSettings) -> None:
    result = nextclick(environ, "doctor", **{f"{PREFIX}API__HOST": "0.0.0.0"})
    assert result.returncode == 1
    assert "`nextclick topics create` creates what is missing" in result.stdout
    assert levels(result) == {
        "Kafka": "error",
        "Redis": "ok",
        "model": "warning",
        "event log": "ok",
        "device": "ok",
        "API": "error",
    }


@pytest.mark.long
def test_the_doctor_looks_on_where_servers_are_away(environ: dict[str, str]) -> None:
    away = f"127.0.0.1:{free_port()}"
    urls = {
        f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS": away,
        f"{PREFIX}REDIS__URL": f"redis://u:hunter2@{away}",
        f"{PREFIX}SCHEMA_REGISTRY__URL": f"http://u:hunter2@{away}",
    }
    result = nextclick(environ, "doctor", **urls)
    assert result.returncode == 1
    found = levels(result)
    assert found["schema registry"] == "error"
    assert (found["Kafka"], found["Redis"], found["device"]) == ("error", "error", "ok")
    assert "hunter2" not in result.stdout
    assert result.stderr == ""


def test_models_can_be_listed_shown_promoted_and_rolled_back(
    environ: dict[str, str], tmp_path: Path
) -> None:
    assert nextclick(environ, "models", "list").returncode == 0  # an empty registry is no error
    first = publish_model(tmp_path / "registry", seed=1)
    second = publish_model(tmp_path / "registry", seed=2)
    listed = nextclick(environ, "models", "list").stdout
    assert first in listed
    assert second in listed
    file = tmp_path / "models.json"
    nextclick(environ, "models", "list", "--json", str(file))
    current = {model["version"]: model["current"] for model in json.loads(file.read_text())}
    assert current == {first: False, second: True}
    assert f'"version": "{first}"' in nextclick(environ, "models", "show", first).stdout
    assert first in nextclick(environ, "models", "rollback").stdout
    assert "no earlier version" in refused(nextclick(environ, "models", "rollback"))
    assert second in nextclick(environ, "models", "promote", second).stdout
    assert "models list" in refused(nextclick(environ, "models", "promote", "nonsense"))
    waits = publish_model(tmp_path / "registry", seed=3, promote=False)
    nextclick(environ, "models", "list", "--json", str(file))
    states = {m["version"]: (m["current"], m["waiting"]) for m in json.loads(file.read_text())}
    assert states == {first: (False, False), second: (True, False), waits: (False, True)}
    (line,) = [
        one for one in nextclick(environ, "models", "list").stdout.splitlines() if waits in one
    ]
    assert "+" in line


def test_old_models_are_removed(environ: dict[str, str], tmp_path: Path) -> None:
    made = [publish_model(tmp_path / "registry", seed=seed) for seed in range(4)]
    assert "0 versions removed" in nextclick(environ, "models", "prune").stdout
    environ |= {f"{PREFIX}REGISTRY__KEEP_VERSIONS": "1", f"{PREFIX}REGISTRY__KEEP_DAYS": "0"}
    removed = sorted({*made[:2]} - {max(made)})  # those of one second sort by their random digits
    printed = nextclick(environ, "models", "prune").stdout.splitlines()
    assert printed == [*removed, f"{len(removed)} versions removed"]
    assert made[2] in nextclick(environ, "models", "rollback").stdout


def test_an_answer_is_explained_by_the_model_that_gave_it(
    environ: dict[str, str], kafka: KafkaSettings, tmp_path: Path
) -> None:
    first = publish_model(tmp_path / "registry", seed=1)
    publish_model(tmp_path / "registry", seed=2)
    ensure_topics(kafka, [kafka.recommendations_topic])
    publisher = Publisher(kafka)
    for event_id, history in (("e1", ["7"]), ("e12", ["3", "4"])):
        answer = Recommendation(
            event_id=event_id, user_id="u", items=[], model_version=first, history=history,
            click_timestamp=1, scored_at=2,
        )  # fmt: skip
        value = answer.model_dump_json().encode()
        publisher.send([OutMessage(kafka.recommendations_topic, b"u", value)])
    publisher.wait_acknowledged()
    result = nextclick(environ, "explain", "e12")
    assert result.returncode == 0, result
    assert first in result.stdout
    assert "1. 3" in result.stdout
    assert "2. 4" in result.stdout
    assert "×" in result.stdout
    by_history = nextclick(environ, "explain", "--history", "3, 4", "--version", first)
    assert by_history.stdout == result.stdout
    assert "no answer to the event e2" in refused(nextclick(environ, "explain", "e2"))
    assert "--history" in refused(nextclick(environ, "explain"))
    assert "not both" in refused(nextclick(environ, "explain", "e1", "--history", "3"))


def test_explaining_without_a_model_says_so(environ: dict[str, str]) -> None:
    assert "no model yet" in refused(nextclick(environ, "explain", "--history", "3"))


def test_a_log_is_written_and_a_bad_path_refused(environ: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "clicks.parquet"
    result = nextclick(environ, "simulate", "--log", str(path), "--world", "source")
    assert result.returncode == 0, result
    assert len(pd.read_parquet(path)) == 42_027
    result = nextclick(environ, "simulate", "--log", str(path), "--interactions", "5000")
    assert result.returncode == 0, result
    log = pd.read_parquet(path)
    assert len(log) == 5000
    assert "Flea & Tick Prevention" in set(log["item_id"])
    nowhere = str(tmp_path / "no" / "folder" / "x.parquet")
    assert "--log" in refused(
        nextclick(environ, "simulate", "--log", nowhere, "--interactions", "1000")
    )


def test_an_unknown_world_is_refused(environ: dict[str, str]) -> None:
    for command in ("demo", "simulate"):
        assert "missions or source" in refused(nextclick(environ, command, "--world", "flat"))


def test_settings_are_listed_without_secrets(environ: dict[str, str]) -> None:
    secret = {
        f"{PREFIX}REDIS__URL": "redis://user:hunter2@localhost/7",
        f"{PREFIX}REGISTRY__URL": "s3://key:hunter2@bucket/models",
        f"{PREFIX}KAFKA__CLIENT_CONFIG": '{"sasl.password": "hunter2"}',
        f"{PREFIX}TRAINER__EVENT_LOG": "[red]\x1b[31m",
    }
    result = nextclick(environ, "settings", **secret)
    assert result.returncode == 0, result
    assert "NEXTCLICK_WORKER__TOP_K" in result.stdout
    assert "hunter2" not in result.stdout
    assert "localhost/7" in result.stdout
    assert "[red]\\x1b" in result.stdout


def test_no_error_of_a_command_shows_a_secret(environ: dict[str, str]) -> None:
    for name, value in (
        ("REDIS__URL", "redis://:hunter2/x@localhost:1/0"),
        ("KAFKA__CLIENT_CONFIG", '{"no.such.option": "x", "sasl.password": "hunter2"}'),
        ("KAFKA__CLIENT_CONFIG", "hunter2"),
    ):
        line = refused(nextclick(environ, "worker", **{f"{PREFIX}{name}": value}))
        assert f"{PREFIX}{name}" in line
        assert "hunter2" not in line
    line = refused(
        nextclick(environ, "models", "list", **{f"{PREFIX}REGISTRY__URL": "no://k:hunter2@bucket"})
    )
    assert "…@bucket" in line
    assert "hunter2" not in line


def test_compacting_says_what_it_did(environ: dict[str, str], tmp_path: Path) -> None:
    log = EventLog(str(tmp_path / "event_log"))
    for offset in range(5):
        row = Row(f"e{offset}", "u", "i", offset, "click", offset, 0, offset)
        log.append([row], {0: offset + 1})
    said = nextclick(environ, "events", "compact").stdout
    assert "5 files became 1, 0 clicks deleted" in said
    keep = {f"{PREFIX}TRAINER__KEEP_DAYS": "1"}
    assert "5 clicks deleted" in nextclick(environ, "events", "compact", **keep).stdout
    (tmp_path / "file").touch()
    elsewhere = {f"{PREFIX}TRAINER__EVENT_LOG": str(tmp_path / "file" / "none")}
    line = refused(nextclick(environ, "events", "compact", **elsewhere))
    assert "NEXTCLICK_TRAINER__EVENT_LOG" in line


def test_a_log_of_the_former_format_is_refused_until_it_is_upgraded(
    environ: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "event_log"
    folder.mkdir()
    file = pa.table({"event_id": ["e"], "user_id": ["u"], "item_id": ["i"], "timestamp": [1]})
    pq.write_table(file, folder / f"clicks-p00000-{0:018d}-{4:018d}.parquet")
    assert "nextclick events upgrade" in refused(nextclick(environ, "trainer", "--once"))
    said = nextclick(environ, "events", "upgrade").stdout
    assert "1 clicks are now in the Delta table" in said
    log = EventLog(str(folder))
    assert (log.count(), log.next_offsets([0])) == (1, {0: 5})
