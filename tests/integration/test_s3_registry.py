"""The registry on an S3-compatible server, all that it can do to us, and clicks that lie there."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import boto3
import fsspec
import pandas as pd
import pytest

from nextclick.services.evaluate.evaluation import open_data
from nextclick.services.replay.log import ReadOptions, load
from nextclick.shared.embedded import free_port
from nextclick.shared.errors import CheckpointError, ConfigurationError, Unavailable
from nextclick.shared.kafka import ensure_topics
from nextclick.shared.model import Scorer
from nextclick.shared.registry import ModelSlot, Registry
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from nextclick.trainer.collect import EventLog
from tests.conftest import Launch
from tests.integration.s3_servers import (
    SECRET,
    S3Server,
    aws,
    moto,
    only_moto,
    only_versitygw,
    server,
    tell,
    versitygw,
)
from tests.integration.terminal import nextclick, refused
from tests.integration.traffic import Answers, Shop, make_clicks
from tests.unit.builders import CPU, checkpoint
from tests.unit.shared.registry.test_deltas import delta_of
from tests.waiting import until

__all__ = ["aws", "moto", "server", "versitygw"]  # fixtures
URL = "s3://models/shop"
SECURITY = Path(__file__).parents[2] / "SECURITY.md"
ACTION = re.compile(r"`(s3:\w+)`")


def test_a_version_s_whole_life(aws: dict[str, str]) -> None:
    ours, theirs = Registry(URL), Registry(URL)
    ours.check_writable()
    assert theirs.pointer() is None
    assert theirs.versions() == []
    first = ours.publish(checkpoint(seed=1))
    assert theirs.pointer() == ours.pointer()
    second = ours.publish(checkpoint(seed=2))
    pointer = theirs.pointer()  # at once: nothing is cached
    assert pointer is not None
    assert (pointer.version, pointer.history) == (second, [first])
    assert sorted(theirs.versions()) == sorted([first, second])
    loaded = theirs.load(second)
    assert loaded.model.state_dict().keys() == checkpoint().model.state_dict().keys()
    assert theirs.rollback().version == first
    ours.promote(second)
    pointer = theirs.pointer()
    assert pointer is not None
    assert pointer.version == second
    with pytest.raises(CheckpointError, match="not in the registry"):
        theirs.load("20200101T000000-0000")
    keys = [o["Key"] for o in boto3.client("s3").list_objects_v2(Bucket="models")["Contents"]]
    assert len(keys) == 7, "three files a version, the pointer, and no probe"


def test_two_concurrent_moves_of_the_pointer_are_both_kept(
    aws: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is faster, after this one has looked and before it writes."""
    ours, other = Registry(URL), Registry(URL)
    first, second, third = (ours.publish(checkpoint(seed=seed)) for seed in range(3))
    write = ours._replace

    def the_other_is_faster(*arguments: object) -> None:
        monkeypatch.undo()
        other.promote(first)
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ours, "_replace", the_other_is_faster)
    ours.promote(second)
    pointer = other.pointer()
    assert pointer is not None
    assert (pointer.version, pointer.history) == (second, [first, second, third, first])

    monkeypatch.setattr(ours, "_replace", the_other_is_faster)
    assert ours.rollback(only_if=second).version == first, "the other has gone there already"


def test_two_concurrent_first_publications_are_both_kept(
    aws: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, other = Registry(URL), Registry(URL)
    write = ours._replace

    def the_other_is_faster(*arguments: object) -> None:
        monkeypatch.undo()
        theirs.append(other.publish(checkpoint(seed=7)))
        write(*arguments)  # type: ignore[arg-type]

    theirs: list[str] = []
    monkeypatch.setattr(ours, "_replace", the_other_is_faster)
    mine = ours.publish(checkpoint(seed=8))
    pointer = ours.pointer()
    assert pointer is not None
    assert (pointer.version, pointer.history) == (mine, theirs)


def test_two_refusals_at_the_same_time_are_both_noted(
    aws: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, other = Registry(URL), Registry(URL)
    other.note_refusal("the first")
    replace = ours._replace

    def the_other_is_faster(*arguments: object) -> None:
        monkeypatch.undo()
        other.note_refusal("of the other")
        replace(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ours, "_replace", the_other_is_faster)
    ours.note_refusal("ours")
    assert [one.reason for one in other.refusals()] == ["the first", "of the other", "ours"]


@only_versitygw  # moto reads and then writes without a lock
def test_many_moves_of_the_pointer_at_the_same_time_are_all_kept(aws: dict[str, str]) -> None:
    """Of trainers that publish and of an operator who goes back and forth."""
    first, second = (Registry(URL).publish(checkpoint(seed=seed)) for seed in range(2))

    def publish(trainer: int) -> list[str]:
        registry = Registry(URL)
        return [registry.publish(checkpoint(seed=10 * trainer + n)) for n in range(4)]

    def promote(_: int) -> list[str]:
        registry, moves = Registry(URL), [first, second] * 3
        for version in moves:
            registry.promote(version)
        return moves

    with ThreadPoolExecutor(3) as threads:
        jobs = [threads.submit(publish, 1), threads.submit(publish, 2), threads.submit(promote, 0)]
        moves = [version for job in jobs for version in job.result()]
    pointer = Registry(URL).pointer()
    assert pointer is not None
    assert sorted([*pointer.history, pointer.version]) == sorted([first, second, *moves])


ACTIONS: dict[str, Callable[[Registry], object]] = {
    "pointer": Registry.pointer,
    "check_writable": Registry.check_writable,
    "publish": lambda registry: registry.publish(checkpoint()),
    "load": lambda registry: registry.load("20200101T000000-0000"),
}


def complaints(url: str = URL) -> set[str]:
    """What is said whatever is tried: one line each, without a secret."""
    said = set()
    for action in ACTIONS.values():
        with pytest.raises(Unavailable, match="NEXTCLICK_REGISTRY__URL") as caught:
            action(Registry(url))
        said.add(str(caught.value))
    assert not any(SECRET in line or "\n" in line for line in said)
    return said


def test_a_bucket_that_is_missing_is_said_and_not_made(aws: dict[str, str]) -> None:
    assert all("no such bucket" in line for line in complaints("s3://modles/shop"))
    names = [bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]]
    assert names == ["models"]


@only_moto
def test_credentials_that_are_wrong_are_said(aws: dict[str, str], server: S3Server) -> None:
    tell(server, "reset-auth", "0")  # only users that it knows may do anything
    for line in complaints():
        assert "Forbidden" in line or "does not exist in our records" in line
        assert "AWS_" in line


@only_versitygw  # moto checks no signature
def test_a_secret_that_is_wrong_is_said(
    aws: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET[::-1])
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    for line in complaints():
        assert "Forbidden" in line or "signature" in line
        assert "AWS_" in line
        assert SECRET[::-1] not in line


def test_credentials_that_are_missing_are_said(
    aws: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    assert all("credentials" in line for line in complaints())


def permitted(who: str) -> list[str]:
    """The actions that SECURITY.md gives to somebody."""
    rows = [line for line in SECURITY.read_text().splitlines() if line.startswith("| ")]
    return [
        a for line in rows if line.startswith((f"| {who}", "| both")) for a in ACTION.findall(line)
    ]


def log_in_as(
    name: str, actions: list[str], monkeypatch: pytest.MonkeyPatch, server: S3Server
) -> None:
    """Be somebody who may do just that; until then whoever came last may do all."""
    iam = boto3.client("iam")
    iam.create_user(UserName=name)
    policy = {"Version": "2012-10-17", "Statement": []}
    policy["Statement"] = [{"Effect": "Allow", "Action": actions, "Resource": "*"}]
    iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    tell(server, "reset-auth", "0")


@only_moto
def test_the_documented_actions_are_enough(
    aws: dict[str, str], server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Registry(URL).publish(checkpoint(seed=1))
    log_in_as("trainer", permitted("trainer"), monkeypatch, server)
    trainer = Registry(URL)
    trainer.check_writable()
    second = trainer.publish(checkpoint(seed=2))
    assert set(trainer.versions()) == {first, second}
    for number in (7, 8):
        trainer.publish_delta(delta_of(trainer, second, number))
    assert trainer.prune_deltas(second, before=8) == 1

    tell(server, "reset-auth", "inf")
    log_in_as("worker", permitted("worker"), monkeypatch, server)
    worker = Registry(URL)
    worker.load(f"{second}+8")
    assert worker.rollback(only_if=second).version == first
    with pytest.raises(Unavailable):
        worker.check_writable()  # its probe could not be removed


@only_moto
@pytest.mark.parametrize("left_out", ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"])
def test_none_of_the_documented_actions_is_superfluous(
    aws: dict[str, str], server: S3Server, monkeypatch: pytest.MonkeyPatch, left_out: str
) -> None:
    Registry(URL).publish(checkpoint(seed=1))
    actions = [action for action in permitted("trainer") if action != left_out]
    log_in_as("trainer", actions, monkeypatch, server)
    with pytest.raises(Unavailable, match="AWS_"):  # noqa: PT012
        Registry(URL).check_writable()
        Registry(URL).publish(checkpoint(seed=2))


def test_a_server_that_is_away_is_said_soon(
    aws: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    began = time.monotonic()
    assert all("Could not connect" in line for line in complaints())
    assert time.monotonic() - began < 30


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"nextclick\[s3\]"):
        Registry("no-such-store://models/shop")


def test_a_worker_serves_from_it_and_swaps(
    aws: dict[str, str], kafka: KafkaSettings, launch: Launch, logs: Callable[[str], str]
) -> None:
    ensure_topics(kafka, [kafka.clicks_topic, kafka.recommendations_topic])
    answers, shop = Answers(kafka), Shop(kafka)
    registry = Registry(URL)
    first = registry.publish(checkpoint(seed=1))
    launch("worker", **aws, **{f"{PREFIX}REGISTRY__URL": URL})
    clicks = make_clicks(200)
    shop.send(clicks[:100])
    answers.wait_for({click.event_id for click in clicks[:100]})
    second = registry.publish(checkpoint(seed=2))
    until(lambda: f"serving model {second}" in logs("worker"), "the swap")
    shop.send(clicks[100:])
    got = answers.wait_for({click.event_id for click in clicks})
    answers.close()
    assert {answer.model_version for answer in got} == {first, second}
    assert SECRET not in logs("worker")


def test_the_command_line_says_it_in_one_line(aws: dict[str, str], environ: dict[str, str]) -> None:
    nowhere = {**aws, f"{PREFIX}REGISTRY__URL": "s3://modles/shop"}
    line = refused(nextclick(environ, "models", "list", **nowhere))
    assert "no such bucket" in line
    assert "NEXTCLICK_REGISTRY__URL" in line


def test_old_versions_are_removed_from_a_bucket(aws: dict[str, str]) -> None:
    registry = Registry(URL)
    made = [registry.publish(checkpoint(), datetime(2026, 1, day, tzinfo=UTC)) for day in (1, 2, 3)]
    assert registry.prune(1, 0) == made[:1]
    assert registry.versions() == made[1:]
    keys = fsspec.filesystem("s3").find("models/shop")
    assert not any(made[0] in key for key in keys)


def keys_of(version: str) -> list[str]:
    """The names of a version's objects."""
    found: list[str] = fsspec.filesystem("s3").find(f"models/shop/{version}")
    return [key.rpartition("/")[2] for key in found]


def test_deltas_are_published_taken_and_pruned(aws: dict[str, str]) -> None:
    trainer, worker = Registry(URL), Registry(URL)
    version = trainer.publish(checkpoint())
    assert worker.newest_delta(version) is None
    slot = ModelSlot(worker, lambda c: Scorer(c, CPU, 5), 1.0, deltas=True)
    slot.check()
    for number in (7, 9, 10):
        trainer.publish_delta(delta_of(trainer, version, number))
        slot.check()  # at once: nothing is cached
        assert slot.model is not None
        assert slot.model.name == f"{version}+{number}"
    lists = slot.model.scorer.recommend([["1", "2"]])
    assert Scorer(worker.load(slot.model.name), CPU, 5).recommend([["1", "2"]]) == lists
    assert trainer.prune_deltas(version, before=10) == 2
    assert worker.delta_numbers(version) == [10]
    assert worker.versions() == [version]
    with pytest.raises(CheckpointError, match="not in the registry"):
        worker.load(f"{version}+9")
    trainer.publish(checkpoint(seed=1))
    assert trainer.remove([version]) == [version]
    assert keys_of(version) == [], "the deltas went with their base"


def test_a_damaged_delta_is_refused_and_the_next_one_taken(aws: dict[str, str]) -> None:
    registry = Registry(URL)
    version = registry.publish(checkpoint())
    slot = ModelSlot(registry, lambda c: Scorer(c, CPU, 5), 1.0, deltas=True)
    slot.check()
    bucket, damaged = fsspec.filesystem("s3"), f"models/shop/{version}/delta-7"
    registry.publish_delta(delta_of(registry, version, 7))
    bucket.pipe_file(damaged, bucket.cat_file(damaged)[:-1] + b"x")
    slot.check()
    assert slot.model is not None
    assert slot.model.name == version
    with pytest.raises(CheckpointError, match="SHA-256"):
        registry.load(f"{version}+7")
    registry.publish_delta(delta_of(registry, version, 8))
    slot.check()
    assert slot.model.name == f"{version}+8"


def test_of_two_deltas_with_one_number_the_first_stays(
    aws: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two trainers in the same second: a list must name one delta."""
    ours, other = Registry(URL), Registry(URL)
    version = ours.publish(checkpoint())
    first = delta_of(ours, version, 7)
    second = replace(first, weight=0.5)
    add = ours._add

    def the_other_is_faster(*arguments: object) -> None:
        other.publish_delta(first)
        add(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ours, "_add", the_other_is_faster)
    with pytest.raises(Unavailable, match="another process has published"):
        ours.publish_delta(second)
    assert ours.load_delta(version, 7).weight == pytest.approx(first.weight)


def test_a_delta_of_a_base_that_is_removed_meanwhile_leaves_nothing(
    aws: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, other = Registry(URL), Registry(URL)
    version = ours.publish(checkpoint())
    ours.publish(checkpoint(seed=1))
    delta, add = delta_of(ours, version), ours._add

    def it_is_removed(*arguments: object) -> None:
        assert other.remove([version]) == [version]
        add(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ours, "_add", it_is_removed)
    with pytest.raises(CheckpointError, match="not in the registry"):
        ours.publish_delta(delta)
    assert keys_of(version) == []


def test_clicks_are_read_from_a_bucket(aws: dict[str, str]) -> None:
    bucket = fsspec.filesystem("s3")
    bucket.pipe_file("models/day=1/a.csv.gz", gzip.compress(b"user_id,item_id,timestamp\nu,a,1\n"))
    bucket.pipe_file("models/day=2/a.csv", b"user_id,item_id,timestamp\nu,b,2\n")
    for data in ("s3://models", "s3://models/*/a.csv*"):
        assert load(data, ReadOptions(time_unit="s")).times.tolist() == [1000, 2000]
    with pytest.raises(ConfigurationError, match=r"s3://models/none.csv: there is no such file"):
        load("s3://models/none.csv")
    with pytest.raises(ConfigurationError, match=r"s3://none/a.csv"):
        load("s3://none/a.csv")


def test_evaluate_tells_an_event_log_in_a_bucket_from_files(aws: dict[str, str]) -> None:
    clicks = pd.DataFrame(
        {
            "event_id": [str(i) for i in range(400)],
            "user_id": [f"u{i % 20}" for i in range(400)],
            "item_id": [f"i{i % 7}" for i in range(400)],
            "timestamp": [1_700_000_000_000 + i * 60_000 for i in range(400)],
        }
    )
    EventLog("s3://models/log").import_clicks(clicks)
    fsspec.filesystem("s3").pipe_file("models/files/a.csv", clicks.to_csv(index=False).encode())
    for data in ("s3://models/log", "s3://models/files"):
        assert len(open_data(data, 1_800_000, ReadOptions()).log.items) == 400


def test_a_store_that_is_away_is_named(
    server: S3Server, aws: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(ConfigurationError, match=r"s3://models/a.csv cannot be read: .*endpoint"):
        load("s3://models/a.csv")
