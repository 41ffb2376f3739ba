"""When the trainer retrains, and what it says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.settings import TrainerSettings
from nextclick.trainer import main
from nextclick.trainer.collect import EventLog, LogState
from nextclick.trainer.data import LeftOut
from nextclick.trainer.main import _report_left_out, _retrain_when_due
from nextclick.trainer.retrain import Outcome
from tests.unit.trainer.collect.test_main import Endless, thread_of


class Retraining:
    """Remembers the states it was called with, and what to do next."""

    def __init__(self, *then: Callable[[], object]) -> None:
        self.states: list[LogState] = []
        self.stopped: Callable[[], bool] = lambda: False
        self._then = list(then)

    def __call__(self, state: LogState, stopped: Callable[[], bool]) -> Outcome | None:
        self.states.append(state)
        self.stopped = stopped
        self._then.pop(0)()
        return None


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EventLog:
    monkeypatch.setattr(main, "LOOK_SECONDS", 0.001)
    return EventLog(str(tmp_path / "log"))


def add(log: EventLog, count: int) -> None:
    ids = [f"{log.count()}-{i}" for i in range(count)]
    log.import_clicks(
        pd.DataFrame({"event_id": ids, "user_id": "u", "item_id": "i", "timestamp": 1})
    )


def test_clicks_since_the_last_retraining_decide(log: EventLog) -> None:
    """Whoever has logged them; also those that came while it ran, and before a restart."""
    stop = threading.Event()
    add(log, 5)
    trained_on = log.state()
    add(log, 3)

    def five_more_during_the_fit() -> None:
        add(log, 3)
        raise Unavailable("the registry is away")

    retraining = Retraining(five_more_during_the_fit, stop.set)
    every = TrainerSettings(every_clicks=3)
    _retrain_when_due(log, trained_on, every, retraining, stop, [])
    assert [state.clicks for state in retraining.states] == [8, 11]


def test_time_is_up_only_if_a_click_is_new(log: EventLog) -> None:
    stop = threading.Event()
    add(log, 5)
    retraining = Retraining(stop.set)
    every = TrainerSettings(every_seconds=0.001, every_clicks=1000)
    timer = threading.Timer(0.05, add, (EventLog(str(log.folder)), 1))
    timer.start()
    _retrain_when_due(log, log.state(), every, retraining, stop, [])
    timer.join()
    assert [state.clicks for state in retraining.states] == [6]


def test_a_collector_that_dies_ends_a_fit_and_the_trainer(log: EventLog, tmp_path: Path) -> None:
    topic = Endless()
    thread, stop = thread_of(topic, tmp_path / "theirs")
    add(log, 5)

    def collector_dies() -> None:
        assert not retraining.stopped()
        topic.failure = ConfigurationError("the event log is ahead of the topic")
        while not retraining.stopped():
            pass

    retraining = Retraining(collector_dies)
    with pytest.raises(ConfigurationError, match="ahead of the topic"), thread:
        _retrain_when_due(log, None, TrainerSettings(every_clicks=5), retraining, stop, [thread])


def test_what_does_not_count_is_logged_and_measured(caplog: pytest.LogCaptureFixture) -> None:
    _report_left_out(LeftOut(rate=900, share=50, users=1, limit=60))
    assert metrics.LEFT_OUT.labels("rate")._value.get() == 900
    assert metrics.LEFT_OUT.labels("share")._value.get() == 50
    assert "950 clicks of 1 users do not count: 900 came too fast, 50 are more" in caplog.text
    caplog.clear()
    _report_left_out(LeftOut(limit=60))
    assert metrics.LEFT_OUT.labels("rate")._value.get() == 0
    assert caplog.text == ""
