"""The event log on an S3-compatible server."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import boto3
import pytest

from nextclick.shared.errors import ConfigurationError, NextclickError, Unavailable
from nextclick.shared.kafka import ensure_topics
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from nextclick.trainer.collect import EventLog
from tests.conftest import Launch
from tests.faults import children
from tests.integration.s3_servers import SECRET, aws, moto, only_versitygw, server, versitygw
from tests.integration.traffic import Shop, make_clicks
from tests.unit.trainer.collect.test_event_log import frame_of, ids, put, rows

__all__ = ["aws", "moto", "server", "versitygw"]  # fixtures
URL = "s3://models/event_log"


def test_its_whole_life(aws: dict[str, str]) -> None:
    ours, theirs = EventLog(URL), EventLog(URL)
    assert put(ours, 0, 0, rows(1, 2)) == 2
    assert put(theirs, 0, 0, rows(1, 2, 3)) == 1
    assert ours.import_clicks(frame_of(0), "a file") == 1
    assert theirs.import_clicks(frame_of(0), "a file") == 0
    assert ours.next_offsets([0, 1]) == {0: 3}
    assert ours.maintain().files_after == 1
    assert ids(theirs.read()) == ["e0", "e1", "e2", "e3"]
    assert ids(EventLog(URL, read_only=True).read(newest=2)) == ["e2", "e3"]
    ours.check_writable()


def test_two_collectors_at_once_double_nothing(aws: dict[str, str]) -> None:
    EventLog(URL)

    def collect(_: int) -> int:
        log = EventLog(URL)
        return sum(put(log, 0, first, rows(first)) for first in range(6))

    with ThreadPoolExecutor(2) as threads:
        assert sum(threads.map(collect, range(2))) == 6
    assert EventLog(URL).count() == 6


@only_versitygw  # in moto's process Python's lock lets few requests meet
def test_collectors_and_a_compaction_at_once_lose_and_double_nothing(aws: dict[str, str]) -> None:
    EventLog(URL)

    def collect(partition: int) -> int:
        log = EventLog(URL)
        return sum(put(log, partition, n, rows(100 * partition + n)) for n in range(8))

    def compact(_: int) -> int:
        log = EventLog(URL)
        for _ in range(3):
            log.maintain()
        return 0

    with ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(collect, partition) for partition in (0, 0, 1)]
        jobs.append(threads.submit(compact, 0))
        assert sum(job.result() for job in jobs) == 16
    log = EventLog(URL)
    expected = [f"e{100 * partition + n}" for partition in range(2) for n in range(8)]
    assert sorted(ids(log.read())) == sorted(expected)
    assert log.next_offsets([0, 1]) == {0: 8, 1: 8}


def test_what_is_wrong_is_said_soon_in_one_line(
    aws: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.monotonic()
    log = EventLog(URL)
    said = []
    for url, endpoint in (("s3://modles/log", None), (URL, "http://127.0.0.1:1")):
        if endpoint:
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises((Unavailable, ConfigurationError)) as caught:
            EventLog(url)
        said.append(str(caught.value))
        if not endpoint:  # none is made
            names = [bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]]
            assert names == ["models"]
    assert all("NEXTCLICK_TRAINER__EVENT_LOG" in line and "\n" not in line for line in said)
    assert not any(SECRET in line for line in said)
    assert isinstance(caught.value, NextclickError)
    assert log.count() == 0, "it goes on where it was"
    assert time.monotonic() - began < 60


def test_a_trainer_collects_into_it(
    aws: dict[str, str], kafka: KafkaSettings, launch: Launch, logs: Callable[[str], str]
) -> None:
    ensure_topics(kafka, [kafka.clicks_topic])
    clicks = make_clicks(300)
    Shop(kafka).send(clicks)
    settings = {f"{PREFIX}TRAINER__EVENT_LOG": URL, f"{PREFIX}TRAINER__MIN_CLICKS": "1000"}
    for _ in range(2):
        assert launch("trainer", "--once", **aws, **settings).wait(60) == 0, logs("trainer")
    log = EventLog(URL)
    assert log.count() == len(clicks)
    assert set(log.read()["event_id"]) == {click.event_id for click in clicks}
    assert SECRET not in logs("trainer")


def _forget(aws: dict[str, str]) -> None:
    os.environ.update(aws)
    erased = EventLog(URL).forget("u1", moment=100)
    print(json.dumps([erased.rows, erased.files, erased.unfinished]))


def test_a_user_is_forgotten(aws: dict[str, str], tmp_path: Path) -> None:
    log = EventLog(URL)
    for first in range(4):
        put(log, 0, first, rows(first))
    # In another process: the table's library holds the GIL meanwhile, which the server needs.
    process = children.call(partial(_forget, aws), tmp_path / "output")
    process.join(60)
    forgotten, files, unfinished = json.loads((tmp_path / "output").read_text())
    assert (forgotten, unfinished) == (2, [])
    assert files >= 2
    assert ids(log.read()) == ["e0", "e2"]
    assert put(log, 0, 4, rows(5)) == 0
    bucket = boto3.resource("s3").Bucket("models")
    data = [thing for thing in bucket.objects.all() if "_delta_log" not in thing.key]
    assert data
    assert not [thing.key for thing in data if b"e1" in thing.get()["Body"].read()]
    with pytest.raises(ConfigurationError, match="there is no event log"):
        EventLog("s3://models/elsewhere", must_exist=True)
