"""The learner on a real event log and a real registry."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import Settings
from nextclick.trainer.collect import EventLog
from nextclick.trainer.learn.main import Learner
from tests.unit.builders import checkpoint

FIRST_MS = 1_700_000_000_000


@pytest.fixture
def event_log(tmp_path: Path) -> EventLog:
    return EventLog(str(tmp_path / "event_log"))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(str(tmp_path / "registry"))


def add(event_log: EventLog, *pairs: tuple[str, str, str], at_ms: int = FIRST_MS) -> None:
    """Log sessions (user, item, item)."""
    rows = [(user, item) for user, *items in pairs for item in items]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id"])
    frame["timestamp"] = [at_ms + i for i in range(len(frame))]
    frame["event_id"] = [f"{at_ms}-{i}" for i in range(len(frame))]
    event_log.import_clicks(frame)


def learner(registry: Registry, event_log: EventLog, now: float = 1000.0) -> Learner:
    return Learner(Settings(), registry, event_log, now=lambda: now)


def test_a_delta_is_published_for_new_clicks_only(registry: Registry, event_log: EventLog) -> None:
    add(event_log, ("a", "1", "2"))
    base = checkpoint()
    base.training["event_log"] = event_log.state()._asdict()
    version = registry.publish(base)
    ours = learner(registry, event_log)
    assert ours.step() is None, "the base was trained on all of that"
    add(event_log, ("b", "3", "4"), at_ms=FIRST_MS + 1000)
    assert ours.step() == 1000
    assert ours.step() is None
    add(event_log, ("c", "3", "4"), at_ms=FIRST_MS + 2000)
    assert ours.step() == 1001, "the clock stands still, numbers do not"
    # Clicks from before the cut are counted too: the base may not have learned from them.
    assert registry.load_delta(version, 1001).touched.tolist() == [1, 2, 3, 4]
    # Another process counts the same from the log.
    assert learner(registry, event_log).step() == 1002
    again, before = (registry.load_delta(version, number) for number in (1002, 1001))
    assert again.shares.equal(before.shares)
    assert again.users.tolist() == before.users.tolist()


def test_after_a_learner_died_before_its_delta_was_named_the_next_has_another_number(
    registry: Registry, event_log: EventLog, tmp_path: Path
) -> None:
    version = registry.publish(checkpoint())
    base = learner(registry, event_log)
    assert base.step() is None
    add(event_log, ("b", "3", "4"))
    assert base.step() == 1000
    (tmp_path / "registry" / version / "delta.json").unlink()
    add(event_log, ("c", "3", "4"), at_ms=FIRST_MS + 1000)
    again = learner(registry, event_log)
    assert again.step() is None, "it takes all of that for learned"
    add(event_log, ("d", "3", "4"), at_ms=FIRST_MS + 2000)
    assert again.step() == 1001
    assert registry.newest_delta(version) == 1001


def test_the_delta_before_the_newest_stays_for_who_has_just_read_its_number(
    registry: Registry, event_log: EventLog
) -> None:
    version = registry.publish(checkpoint())
    clock = iter((1_000, 9_000, 17_000))
    ours = Learner(Settings(), registry, event_log, now=lambda: next(clock))
    assert ours.step() is None
    for n, user in enumerate("bcd"):
        add(event_log, (user, "3", "4"), at_ms=FIRST_MS + 1000 * n)
        ours.step()
    assert registry.delta_numbers(version) == [9_000, 17_000]


def test_what_a_refitted_base_knows_is_not_counted_again(
    registry: Registry, event_log: EventLog
) -> None:
    add(event_log, ("a", "1", "2"), ("b", "3"))
    base = checkpoint()
    base.training["event_log"] = event_log.state()._asdict()
    base.training["refit"] = {"clicks": 1}
    version = registry.publish(base)
    add(event_log, ("b", "4"), ("c", "1"), at_ms=FIRST_MS + 1000)
    assert learner(registry, event_log).step() == 1000
    delta = registry.load_delta(version, 1000)
    # "b" goes on in its session; 1 has a new user, 2 and 3 have none.
    assert delta.touched.tolist() == [1, 3, 4]
    assert delta.users.tolist() == [
        base.popularity[0] + 1,
        base.popularity[2],
        base.popularity[3] + 1,
    ]


def test_who_is_forgotten_is_in_no_delta_any_more(registry: Registry, event_log: EventLog) -> None:
    version = registry.publish(checkpoint())
    ours = learner(registry, event_log)
    assert ours.step() is None
    add(event_log, ("gone", "1", "2"), ("b", "3", "4"))
    assert ours.step() == 1000
    event_log.forget("gone", FIRST_MS + 10_000)
    assert ours.step() == 1001
    assert registry.load_delta(version, 1001).touched.tolist() == [3, 4]
    assert registry.newest_delta(version) == 1001
    assert not Path(registry.url, version, "delta-1000").exists()
