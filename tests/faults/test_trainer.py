"""Trainers die, stop, have company, run out of disk, and see the clock jump, while clicks flow."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import pytest

from nextclick.shared.registry import Pointer, Registry, registry
from nextclick.shared.runtime.settings import PREFIX
from nextclick.shared.schemas import Click
from nextclick.trainer import main
from nextclick.trainer.collect import EventLog
from nextclick.trainer.collect.collector import Collector
from nextclick.trainer.evaluate import gate
from tests.faults import dying
from tests.faults.collecting import held, judge_log, leftovers
from tests.faults.conftest import MakeStand, Report
from tests.faults.stand import Stand, Stopwatch
from tests.integration.traffic import make_clicks, make_topic_anew
from tests.waiting import until

T = f"{PREFIX}TRAINER__"
QUICK = {
    f"{T}MAX_EPOCHS": "1",
    f"{T}MIN_CLICKS": "200",
    f"{T}EVERY_CLICKS": "300",
    f"{T}WINDOW_CLICKS": "1000",
    f"{T}FLUSH_SECONDS": "0.1",
    f"{T}TORCH_THREADS": "1",
    f"{T}INSTANCE_ID": "t",
}
DAY = 86_400.0


def always_publish() -> None:
    """These clicks are random: there is nothing to learn, and the gate would say so."""
    gate.decide = lambda *_, **__: gate.Decision(True, "it is always yes")


def prepared(*actions: Callable[[], None]) -> None:
    always_publish()
    for action in actions:
        action()


class Shop:
    """A stand with a trainer's settings, and what has come of it."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.log = stand.folder / "event_log"
        self.registry = Registry(str(stand.registry))
        self.sent: list[Click] = []
        stand.environ |= {**QUICK, f"{T}EVENT_LOG": str(self.log)}

    def trainer(self, *actions: Callable[[], None], **settings: str) -> ForkServerProcess:
        return self.stand.start("trainer", prepare=partial(prepared, *actions), **settings)

    def send(self, count: int) -> None:
        clicks = make_clicks(count, seed=len(self.sent))
        self.stand.send(clicks)
        self.sent += clicks

    def all_logged(self) -> bool:
        return len(set(held(self.log))) == len(self.sent)

    def wait_for_versions(self, count: int) -> None:
        until(lambda: len(self.registry.versions()) >= count, f"{count} versions")

    def whole(self) -> Pointer:
        """Every version loads, and the pointer names one of them."""
        pointer = self.registry.pointer()
        assert pointer is not None
        versions = self.registry.versions()
        assert {*pointer.history, pointer.version} <= set(versions)
        for version in versions:
            self.registry.load(version)
        return pointer


@pytest.fixture
def shop(stand: MakeStand) -> Shop:
    return Shop(stand())


def test_killed_again_and_again_while_clicks_flow(shop: Shop, long: bool, report: Report) -> None:
    """At random steps of writing log, versions and pointer; then it may go on."""
    rng = np.random.default_rng(1)
    folders = (shop.log, shop.stand.registry)
    for step in rng.integers(5, 30, 20 if long else 3).tolist():
        trainer = shop.trainer(partial(dying.at_change, step, *folders))
        while trainer.is_alive():
            shop.send(100)
            trainer.join(0.3)
        assert trainer.exitcode == -9, shop.stand.log(trainer)
        shop.whole()
    watch = Stopwatch()
    last = shop.trainer()
    until(shop.all_logged, "every click in the log")
    last.terminate()
    last.join(90)
    assert last.exitcode == 0
    verdict = judge_log(shop.sent, held(shop.log))
    assert verdict.doubled == 0
    shop.whole()
    assert leftovers(shop.stand.registry) == []
    report("trainer killed at random steps", verdict, watch.seconds())


def test_the_disk_is_full_and_then_it_is_not(shop: Shop, report: Report) -> None:
    """First for the event log; then only for a model, which is larger."""
    shop.send(600)
    trainer = shop.trainer(partial(dying.full_at, 8000))
    complaint = "waiting: cannot write the event log"
    until(lambda: complaint in shop.stand.log(trainer), "it says what it waits for")
    assert held(shop.log) == []
    dying.refuse_from(trainer, 100_000)
    lost = "this retraining is lost: cannot write the registry"
    until(lambda: lost in shop.stand.log(trainer), "it says what it has lost")
    assert shop.stand.log(trainer).count(complaint) == 1
    assert "File too large" in shop.stand.log(trainer)
    assert len(shop.registry.versions()) == 1
    assert leftovers(shop.stand.registry) == []
    watch = Stopwatch()
    dying.refuse_from(trainer, dying.NO_LIMIT)
    shop.send(400)
    shop.wait_for_versions(2)
    until(shop.all_logged, "every click in the log")
    shop.whole()
    verdict = judge_log(shop.sent, held(shop.log))
    assert verdict.doubled == 0
    report("trainer, disk full", verdict, watch.seconds())


def test_two_trainers_in_one_group_with_one_log_and_one_registry(
    shop: Shop, report: Report
) -> None:
    unnamed = {f"{T}INSTANCE_ID": ""}
    first = shop.trainer(**unnamed)
    shop.stand.wait_for_partitions(first)
    shop.send(1000)
    second = shop.trainer(**unnamed)
    for _ in range(10):
        shop.send(100)
    shop.stand.wait_for_partitions(second)
    shop.send(1000)
    until(lambda: "published" in shop.stand.log(second), "the second publishes, too")
    first.terminate()
    shop.send(500)
    first.join(90)
    assert first.exitcode == 0
    watch = Stopwatch()
    until(shop.all_logged, "every click in the log")
    second.terminate()  # it may be in the middle of a retraining
    second.join(90)
    assert second.exitcode == 0
    pointer = shop.whole()
    # Whoever publishes points to it: each version has had its turn, once.
    assert sorted([*pointer.history, pointer.version]) == shop.registry.versions()
    read = EventLog(str(shop.log)).read()["event_id"].tolist()
    report("two trainers", judge_log(shop.sent, read), watch.seconds())


def fitting_until(end: Path) -> None:
    """A retraining takes until the file is there."""

    def retrain(*_: object, stopped: Callable[[], bool], **__: object) -> None:
        while not end.exists() and not stopped():
            time.sleep(0.01)

    main.retrain = retrain  # type: ignore[assignment]


def test_clicks_are_collected_while_a_fit_runs(shop: Shop, report: Report) -> None:
    trainer = shop.trainer(partial(fitting_until, shop.stand.folder / "end"))
    shop.send(400)
    until(lambda: "retraining on" in shop.stand.log(trainer), "a fit runs")
    watch = Stopwatch()
    shop.send(2000)
    until(shop.all_logged, "every click in the log")
    assert shop.stand.log(trainer).count("retraining on") == 1
    verdict = judge_log(shop.sent, held(shop.log))
    report("trainer, in the middle of a fit", verdict, watch.seconds())
    trainer.terminate()
    trainer.join(60)
    assert trainer.exitcode == 0


def dying_collector() -> None:
    def flush(self: Collector) -> None:
        raise ZeroDivisionError

    Collector.flush = flush  # type: ignore[method-assign]


def test_a_trainer_whose_collector_dies_ends(shop: Shop) -> None:
    trainer = shop.trainer(dying_collector)
    trainer.join(60)
    assert trainer.exitcode == 1
    assert "ZeroDivisionError" in shop.stand.log(trainer)


def jumping_clock() -> None:
    """Before each publish the clock jumps: back a day, ten years on, and to where it was."""
    jumps = [0.0, -DAY, 3650 * DAY, 0.0, -DAY]
    real_time, real_publish, real_datetime = time.time, Registry.publish, registry.datetime
    now = 0.0

    def publish(self: Registry, *arguments: object) -> str:
        nonlocal now
        now = jumps.pop(0) if jumps else 0.0
        return real_publish(self, *arguments)  # type: ignore[arg-type]

    class Jumping(real_datetime):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: object = None) -> object:
            return cls.fromtimestamp(time.time(), tz)

    time.time = lambda: real_time() + now
    registry.datetime = Jumping  # type: ignore[misc]
    Registry.publish = publish  # type: ignore[method-assign, assignment]


@pytest.mark.long
def test_the_clock_jumps(shop: Shop, report: Report) -> None:
    shop.trainer(jumping_clock)
    for published in range(5):
        shop.send(400)
        shop.wait_for_versions(published + 2)
    watch = Stopwatch()
    until(shop.all_logged, "every click in the log")
    until(lambda: len(_history(shop)) == 5, "the pointer has moved five times")
    pointer = shop.whole()
    in_order = [*pointer.history, pointer.version]
    assert len(set(in_order)) == 6
    years = [int(version[:4]) for version in in_order]
    assert years[3] - years[4] in (9, 10)
    for earlier in reversed(in_order[:-1]):
        assert shop.registry.rollback().version == earlier
        shop.registry.load(earlier)
    verdict = judge_log(shop.sent, held(shop.log))
    assert verdict.doubled == 0
    report("trainer, the clock jumps", verdict, watch.seconds())


def _history(shop: Shop) -> list[str]:
    pointer = shop.registry.pointer()
    return pointer.history if pointer else []


def test_the_topic_is_made_anew(stand: MakeStand, report: Report) -> None:
    """Under a trainer, and again while none runs: each time it becomes longer than it was."""
    shop = Shop(stand())
    ours = shop.stand
    trainer = shop.trainer()
    shop.send(600)
    until(shop.all_logged, "all of the first is logged")
    make_topic_anew(ours.kafka, ours.kafka.clicks_topic)
    ours.reconnect_shop()
    shop.send(1500)
    watch = Stopwatch()
    until(shop.all_logged, "all of the second is logged")
    trainer.terminate()
    trainer.join(60)
    make_topic_anew(ours.kafka, ours.kafka.clicks_topic)
    ours.reconnect_shop()
    shop.send(3000)
    shop.trainer()
    until(shop.all_logged, "all of the third is logged")
    verdict = judge_log(shop.sent, held(shop.log))
    report("the topic made anew, twice, under a trainer", verdict, watch.seconds())
